// SPDX-License-Identifier: Apache-2.0
#include "app/convert_packed.h"

#include <fmt/format.h>

#include "backend/row_form.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/placement.h"
#include "comm/thread_groups.h"
#include "hub/digest.h"
#include "weights/packed.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;

// Where the checkpoint is found from any folder.
std::string lasting_name(const std::string& name) {
  std::error_code error;
  return fs::exists(name, error) ? fs::absolute(name).lexically_normal().string() : name;
}
}  // namespace

uint64_t convert_packed(const ModelSource& source, const fs::path& out, const PackOptions& options) {
  const ModelInfo info = read_model_info(source);
  const int ranks = options.tp * options.pp;
  choose_layout(std::array{ranks}, options.tp, options.pp,
                {static_cast<int>(info.n_heads), static_cast<int>(info.n_layers)}, true);
  CpuOptions cpu;
  cpu.threads = options.threads;
  const auto backend = options.gpus ? make_row_packer(cpu) : make_cpu_backend(cpu);
  PackedLayout layout;
  layout.folder = out;
  layout.tp = options.tp, layout.pp = options.pp;
  layout.packing = backend->packing();
  layout.dtype = info.dtype, layout.quantize = source.quantize, layout.experts = source.experts;
  layout.source = lasting_name(options.name);
  fs::create_directories(out);
  std::vector<Groups> groups = make_thread_groups(options.tp, options.pp);  // loading sends nothing
  uint64_t bytes = 0;
  const std::string a_sha256(64, '0');
  for (int rank = 0; rank < ranks; ++rank) {
    PackedWriter writer(out, fmt::format("packed-{:05}-of-{:05}.safetensors", rank + 1, ranks));
    pack_model(source, *backend, groups[static_cast<size_t>(rank)], writer);
    PackedFile file = writer.finish();
    file.sha256 = file_digest(out / file.name, a_sha256);
    if (!layout.tie) layout.tie = writer.tie();
    bytes += file.bytes;
    log_info(fmt::format("{}: {:.2f} GB for rank {} of {}", (out / file.name).string(),
                         static_cast<double>(file.bytes) * 1e-9, rank, ranks));
    layout.files.push_back(std::move(file));
  }
  write_packed_layout(layout);
  return bytes;
}

}  // namespace sluice

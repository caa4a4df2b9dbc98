// SPDX-License-Identifier: Apache-2.0
// packed.json, and behind a NUL byte the file of one rank. A list that is accepted reads the same when it is written
// again; records of the file can be restored, and written and read again.
#include "weights/packed.h"

#include <algorithm>

#include "backend/cpu/panel_weight.h"
#include "fuzz/fuzz.h"
#include "weights/safetensors.h"

using namespace sluice;

namespace {
struct Folders {
  fuzz::Folder given, again;
  std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 1});
};

void check_list(const Folders& folders) {
  std::optional<PackedLayout> layout = read_packed_layout(folders.given.path());
  fuzz::demand(layout.has_value(), "a list that is there was not found");
  fuzz::demand(layout->files.size() == static_cast<size_t>(layout->tp) * static_cast<size_t>(layout->pp),
               "a list without a file for each rank");
  for (const PackedFile& file : layout->files)
    fuzz::demand((layout->folder / file.name).parent_path() == layout->folder, "a file outside the folder");
  fuzz::accepts([&] { layout->require_ranks(1, 1); });
  fuzz::accepts([&] { layout->require_stored("float32", "int8", "spread"); });
  fuzz::accepts([&] { layout->require_packing(*folders.backend); });
  layout->folder = folders.again.path();
  write_packed_layout(*layout);
  const std::optional<PackedLayout> same = read_packed_layout(layout->folder);
  fuzz::demand(same->describe() == layout->describe() && same->again() == layout->again() &&
                   same->files.size() == layout->files.size() && same->tie.has_value() == layout->tie.has_value(),
               "a list that reads differently when it is written again");
}

// Writes the restored records of the file of a rank that is alone. The number of them.
size_t copy_records(Backend& backend, const PackedLayout& from, PackedWriter& to) {
  const SafetensorsHeader header = read_safetensors(File::open_read(from.folder / from.files[0].name));
  PackedReader reader(from, 0);
  std::vector<std::pair<std::string, std::unique_ptr<Weight>>> weights;
  for (const bool writing : {false, true}) {
    for (const SafetensorsEntry& entry : header.tensors) {
      const std::string kind = entry.name.substr(0, entry.name.find('.')),
                        names = entry.name.substr(entry.name.find(' ') + 1);
      fuzz::demand(reader.holds(names), "a record that is not found");
      const bool first = entry.name[kind.size() + 1] == '0' && !entry.shape.empty();
      if (!first || std::any_of(names.begin(), names.end(), [](unsigned char c) { return c < 32; })) continue;
      if (!writing) {
        to.announce(names);
      } else if (kind == "table" || kind == "vector") {
        if (entry.shape.size() != 2) continue;
        fuzz::accepts([&] { reader.plain(backend, kind, names, DType::kBF16, entry.shape[0], entry.shape[1]); });
        const Buffer data = reader.plain(backend, kind, names, DType::kF32, entry.shape[0], entry.shape[1]);
        reader.read({.threads = 2, .quiet = true});
        to.plain(kind, names, DType::kF32, entry.shape, data.data());
      } else if (entry.shape.size() == 3) {
        const int64_t rows = std::min<int64_t>(entry.shape[0], 1 << 20) * kPanel - 3;
        const auto restored = [&](int64_t group) {
          return fuzz::accepts([&] {
            PackedForm form = reader.matrix(backend, names, rows, std::min<int64_t>(entry.shape[1], 1 << 20) * group);
            reader.read({.threads = 2, .quiet = true});
            weights.emplace_back(names, backend.restore(std::move(form)));
          });
        };
        (void)(restored(kDepth) || restored(kInt4Group));
      }
    }
  }
  for (const auto& [names, weight] : weights) to.matrix(names, backend.form(*weight));
  return weights.size();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folders folders;
  std::string_view rest = fuzz::text_of(data, size);
  folders.given.write("packed.json", fuzz::take_part(rest));
  folders.given.write("rank.safetensors", rest);
  fuzz::accepts([&] { check_list(folders); });

  PackedLayout layout;
  layout.folder = folders.given.path();
  layout.files = {{"rank.safetensors", rest.size() + (size % 16 == 0 ? 1 : 0), {}}};
  PackedWriter writer(folders.again.path(), "again.safetensors");
  size_t matrices = 0;
  if (!fuzz::accepts([&] { matrices = copy_records(*folders.backend, layout, writer); }) || matrices == 0) return 0;
  layout.folder = folders.again.path();
  layout.files = {writer.finish()};
  PackedWriter twice(folders.again.path(), "twice.safetensors");
  fuzz::demand(fuzz::accepts([&] { copy_records(*folders.backend, layout, twice); }), "what was written is refused");
  return 0;
}

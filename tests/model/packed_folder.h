// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include "model/run_model.h"
#include "weights/packed.h"
#include "weights/safetensors_file.h"

namespace sluice::test {

// A folder of packed weights, as convert writes it, without tokenizer.
struct Packed {
  Packed(const Golden& golden, Backend& backend, int tp, int pp, const std::string& dtype, const std::string& quantize,
         const std::string& experts = "auto") {
    ModelSource source;
    source.folder = golden.folder;
    source.dtype = dtype;
    source.quantize = quantize;
    source.experts = experts;
    source.quiet = true;
    PackedLayout layout;
    layout.folder = folder.path();
    layout.tp = tp, layout.pp = pp, layout.packing = backend.packing();
    layout.dtype = read_model_info(source).dtype, layout.quantize = quantize, layout.experts = experts;
    layout.source = "org/model";
    auto groups = make_thread_groups(tp, pp);
    for (size_t rank = 0; rank < groups.size(); ++rank) {
      PackedWriter writer(folder.path(), fmt::format("rank{}.safetensors", rank));
      pack_model(source, backend, groups[rank], writer);
      layout.files.push_back(writer.finish());
      if (!layout.tie) layout.tie = writer.tie();
    }
    write_packed_layout(layout);
    std::filesystem::copy_file(golden.folder / "config.json", folder.path() / "config.json");
    this->golden = golden;
    this->golden.folder = folder.path();
  }
  TemporaryFolder folder;
  Golden golden;  // the reference's, with this folder
};

}  // namespace sluice::test

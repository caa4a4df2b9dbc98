// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json beside two shards: what is accepted names tensors of those shards only.
#include "fuzz/fuzz.h"
#include "weights/checkpoint.h"

using namespace sluice;

namespace {
std::string shard(const char* name) {
  std::string header = std::string("{\"") + name + R"(":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i));
  return out + header + "xy";
}
struct Shards : fuzz::Folder {
  Shards() {
    write("one.safetensors", shard("a"));
    write("two.safetensors", shard("b"));
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Shards folder;
  folder.write("model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const Checkpoint checkpoint = Checkpoint::open(folder.path(), "model.");
    fuzz::demand(!checkpoint.tensors().empty() && checkpoint.files().size() <= 2, "tensors from nowhere");
    for (const CheckpointTensor& tensor : checkpoint.tensors())
      fuzz::demand(checkpoint.find(tensor.name) == &tensor, "a tensor that is not found");
  });
  return 0;
}

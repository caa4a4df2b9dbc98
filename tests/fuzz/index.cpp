// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json beside two shards: what is accepted names tensors of those shards only.
#include "fuzz/fuzz.h"
#include "weights/checkpoint.h"

using namespace sluice;

namespace {
std::string shard(const char* name) {
  std::string header = std::string("{\"") + name + R"(":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}})";
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i));
  return out + header + "wxyz";
}
struct Shards : fuzz::Folder {
  Shards() {
    write("one.safetensors", shard("a"));
    write("two.safetensors", shard("model.b"));
    write("twice.safetensors", shard("a"));
    write("old.safetensors", shard("c.LayerNorm.gamma"));
    fuzz::demand(!fuzz::accepts([&] { Checkpoint::open(path() / "one.safetensors", ""); }), "a file is no folder");
    fuzz::demand(!fuzz::accepts([&] { Checkpoint::open(path(), ""); }), "a folder without an index was accepted");
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Shards folder;
  folder.write("model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::accepts([&] {
    const Checkpoint checkpoint = Checkpoint::open(folder.path(), "model.");
    fuzz::demand(!checkpoint.tensors().empty() && checkpoint.files().size() <= 3, "tensors from nowhere");
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      fuzz::demand(checkpoint.find(tensor.name) == &tensor, "a tensor that is not found");
      const std::string other = tensor.name.starts_with("model.") ? tensor.name.substr(6) : "model." + tensor.name;
      fuzz::demand(&checkpoint.at(other, {1, 2}) == &tensor, "a tensor that is not found without its prefix");
      fuzz::demand(!fuzz::accepts([&] { checkpoint.at(tensor.name, {2, 2}); }), "a tensor of another shape");
      fuzz::demand(!fuzz::accepts([&] { checkpoint.at(tensor.name + "?", {1, 2}); }), "a tensor that is not there");
      fuzz::demand(checkpoint.same_content(tensor, checkpoint.tensors()[0]), "shards of equal bytes differ");
    }
  });
  return 0;
}

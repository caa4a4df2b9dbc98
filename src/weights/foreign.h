// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are not in Hugging Face layout, shown as if they were: a config.json and tensors by name. Parts that
// the file splits over tensor-parallel ranks are one tensor here.
//
// .nemo (reference: NVIDIA NeMo, legacy Megatron GPT): the config is model_config.yaml as JSON, with "architectures":
// [the last word of `target`, else "MegatronGPTModel"] and "padded_vocab_size", the rows of the word embeddings.
// Tensors have Megatron's names, as "model.language_model.encoder.layers.LAYER.self_attention.query_key_value.weight"
// with the layer counted over all pipeline ranks. FasterTransformer GPT folders (config.ini): the config and the
// tensors of a GPT2LMHeadModel.
#pragma once

#include <filesystem>
#include <string>

#include "weights/checkpoint.h"

namespace sluice {

bool is_foreign(const std::filesystem::path& path);
// JSON text. Throws Error.
std::string foreign_config(const std::filesystem::path& path);
Checkpoint open_foreign(const std::filesystem::path& path, std::string base_prefix);

// What readers of foreign layouts fill.
class CheckpointBuilder {
 public:
  CheckpointBuilder(const std::filesystem::path& path, std::string base_prefix);
  int add_file(File file);  // its number
  const File& file(int number) const { return out_.files_[static_cast<size_t>(number)]; }
  void add(CheckpointTensor tensor) { out_.add_tensor(std::move(tensor)); }
  const Checkpoint& checkpoint() const { return out_; }
  Checkpoint take() { return std::move(out_); }

 private:
  Checkpoint out_;
};

}  // namespace sluice

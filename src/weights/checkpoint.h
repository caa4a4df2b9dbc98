// SPDX-License-Identifier: Apache-2.0
// A checkpoint folder in Hugging Face layout: model.safetensors, or an index with shards. Knows where each tensor lies;
// reads no weights itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "tensor/dtype.h"

namespace sluice {

struct CheckpointTensor {
  std::string name;            // as the file writes it
  std::string stored_dtype;    // "BF16", ...
  std::vector<int64_t> shape;  // row-major
  int file = 0;                // index of files()
  uint64_t offset = 0, bytes = 0;

  DType dtype() const;  // throws Error where no model reads that type
};

class Checkpoint {
 public:
  // Opens every shard and reads its header. `base_prefix` ("model.") may be present or absent in the files: names are
  // looked up as asked for, without it, and with it. Throws Error when files are missing, damaged, or in another
  // format.
  static Checkpoint open(const std::filesystem::path& folder, std::string base_prefix);

  const CheckpointTensor* find(const std::string& name) const;  // null when absent
  // The tensor, or an Error that names expected and found.
  const CheckpointTensor& at(const std::string& name, const std::vector<int64_t>& shape) const;
  // Equal type, shape and bytes. Reads both.
  bool same_content(const CheckpointTensor& a, const CheckpointTensor& b) const;

  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }
  const std::vector<File>& files() const { return files_; }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  Checkpoint() = default;
  void add_file(const std::filesystem::path& path);

  std::filesystem::path folder_;
  std::string base_prefix_;
  std::vector<File> files_;
  std::vector<CheckpointTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// A checkpoint: a folder in Hugging Face layout with safetensors or torch files, one file or an index with shards; a
// .nemo archive; or a FasterTransformer folder (foreign.h). Knows where each tensor lies; reads no weights itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "tensor/dtype.h"

namespace sluice {

struct TensorPiece;
struct QuantFormat;
struct QuantisedTensor;

struct CheckpointTensor {
  std::string name;            // as the file writes it
  std::string stored_dtype;    // "BF16", ...
  std::vector<int64_t> shape;  // row-major
  int file = 0;                // index of files()
  uint64_t offset = 0, bytes = 0;
  int64_t row_stride = 0;           // elements, where the file holds more beside each row; 0: rows touch
  std::vector<TensorPiece> pieces;  // of one that lies in several places; file, offset and bytes mean nothing then

  // Of a layer that is quantised (quantised.h): shape and type are those of the floats [out, in] that it means.
  std::shared_ptr<const QuantisedTensor> quantised{};

  DType dtype() const;  // throws Error where no model reads that type
  int64_t stride() const { return row_stride > 0 ? row_stride : shape.size() == 2 ? shape[1] : 1; }  // of rows
};

// A block of a matrix, or a stretch of a vector.
struct TensorPiece {
  CheckpointTensor tensor;  // in one place
  int64_t to_row = 0, to_col = 0;
};

class Checkpoint {
 public:
  // Opens every shard and reads its header. `base_prefix` ("model.") may be present or absent in the files: names are
  // looked up as asked for, without it, and with it. Throws Error when files are missing, damaged, or in another
  // format.
  static Checkpoint open(const std::filesystem::path& folder, std::string base_prefix);

  // From here on the layers of a quantised checkpoint are found as the matrices that they mean.
  void join(const QuantFormat& format);

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
  friend class CheckpointBuilder;  // of foreign layouts
  void add_file(const std::filesystem::path& path);
  void add_tensor(CheckpointTensor tensor);

  std::filesystem::path folder_;
  std::string base_prefix_;
  std::vector<File> files_;
  std::vector<CheckpointTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Writing safetensors files: first all headers, then the tensors in the same order.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "weights/checkpoint.h"

namespace sluice {

struct WrittenTensor {
  std::string name, dtype;  // as safetensors names it
  std::vector<int64_t> shape;
  uint64_t bytes() const;
};

// Plans files of at most `shard_bytes`, then takes the tensors' bytes in order. Files appear under their names, with an
// index where there are several, when finish() returns.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path folder, std::vector<WrittenTensor> tensors, uint64_t shard_bytes);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  void write(const void* data, uint64_t bytes);  // of the next tensor, whole. Throws Error.
  void finish();

 private:
  void open_shard();
  void close_shard();
  std::string shard_name(size_t shard) const;

  std::filesystem::path folder_;
  std::vector<WrittenTensor> tensors_;
  std::vector<size_t> shard_ends_;  // tensors before the end of each shard
  size_t next_ = 0, shard_ = 0;
  std::FILE* file_ = nullptr;
};

// All bytes of a tensor as one contiguous block.
std::vector<char> read_whole(const Checkpoint& checkpoint, const CheckpointTensor& tensor);

}  // namespace sluice

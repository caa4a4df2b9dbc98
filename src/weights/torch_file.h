// SPDX-License-Identifier: Apache-2.0
// Files of torch.save: where each tensor of a state dict lies. Reads the pickle and the directory, no weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/pickle.h"

namespace sluice {

struct TorchEntry {
  std::string name, dtype;             // dtype as safetensors names it
  std::vector<int64_t> shape, stride;  // in elements
  uint64_t offset = 0;                 // of the first element, bytes from the start of the file
};

// A stretch of a file that is a file of its own: a member of a tar archive, or the whole.
struct FileRange {
  const File* file = nullptr;
  uint64_t begin = 0, bytes = 0;
  std::string name;                                             // for messages
  void read_at(uint64_t offset, void* to, size_t bytes) const;  // throws Error beyond the range
};
FileRange whole_file(const File& file);

// As the loader reads it from file number `file`. Throws Error where it is neither contiguous nor a matrix with gaps
// between its rows.
CheckpointTensor torch_tensor(TorchEntry& entry, int file, const std::string& origin);

// Both formats: the zip archive of torch 1.6 and later, and the older stream of pickles. Throws Error where the file is
// damaged, compressed, big-endian, or asks for more than tensors.
std::vector<TorchEntry> read_torch_file(const FileRange& range);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Memory of the CPU backend: zeroed, in huge pages where the system has them.
#pragma once

#include <cstddef>

#include "tensor/tensor.h"

namespace sluice {

// What this process may still allocate: the system's available memory or the cgroup's limit, whichever is less.
size_t available_memory();

// Zeroed; pages come with their first use. Throws Error with the numbers when `bytes` exceed available_memory().
Buffer allocate_pages(size_t bytes);

// Working memory that only grows; its content is lost when it does.
class Scratch {
 public:
  // At least `bytes`, aligned to 64.
  void* reserve(size_t bytes);
  void* data() const { return buffer_.data(); }

 private:
  Buffer buffer_;
};

}  // namespace sluice

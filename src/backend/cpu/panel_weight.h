// SPDX-License-Identifier: Apache-2.0
// Own matrix products: weights packed in panels (cpu/simd.h), one copy for decode and prefill. An output is one chain
// of fused multiply-adds over the inputs in order, so it depends neither on the other rows nor on threads or blocking.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/pool.h"

namespace sluice {

// Working memory of products, shared by all weights of a backend; grows to the largest product and is then reused.
struct ProductScratch {
  std::vector<float> x;                   // packed rows, tile by tile: [tile][input][row]
  std::vector<std::vector<float>> edges;  // per thread: the last panel's columns where they are not whole
};

class PanelWeight : public Weight {
 public:
  static std::unique_ptr<Weight> pack(const HostMatrix& source, DType dtype, Pool& pool);
  void product(const Tensor& out, const Tensor& x, const Epilogue& epilogue, Pool& pool, ProductScratch& scratch) const;

 private:
  PanelWeight(int64_t rows, int64_t cols, DType dtype);
  int64_t panels_;
  DType dtype_;
  Buffer data_;  // [panels][cols][32]
};

// Memory of a backend: pages of 2 MiB where the system grants them. Throws Error when it does not fit.
Buffer allocate_pages(size_t bytes);
// What this process may still use: the machine's or the control group's, whichever is less.
size_t available_memory();

}  // namespace sluice

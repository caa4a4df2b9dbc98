// SPDX-License-Identifier: Apache-2.0
// Packed weights of the CPU backend and their product with rows of activations.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/pool.h"
#include "backend/cpu/product.h"
#include "backend/cpu/row_ops.h"

namespace sluice {

// Panels as product.h lays them out.
class PanelWeight : public Weight {
 public:
  PanelWeight(int64_t rows, int64_t cols, Scheme scheme, Buffer data);
  Scheme scheme() const { return scheme_; }
  const char* data() const { return static_cast<const char*>(data_.data()); }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t depth() const { return padded_depth(cols_); }
  size_t panel_bytes() const { return static_cast<size_t>(depth() * kPanel) * element_bytes(scheme_); }

  static int64_t padded_depth(int64_t cols) { return (cols + kDepth - 1) / kDepth * kDepth; }
  static size_t element_bytes(Scheme scheme) { return scheme == Scheme::kF32 ? 4 : 2; }

 private:
  Scheme scheme_;
  Buffer data_;
};

class Products {
 public:
  Products(const CpuIsa& isa, Pool& pool, const RowOps& rows);
  std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme);
  // Shapes are checked by the caller: out [T, w.rows()], x [T, w.cols()], f32 with any row strides.
  void run(const Tensor& out, const Tensor& x, const PanelWeight& w, const Epilogue& epilogue);
  // out[r] = x[r] * w^T for rows offsets[e] .. offsets[e + 1] and the matrix e of the group, in one round of tasks.
  void run_group(const Tensor& out, const Tensor& x, const WeightGroup& group, const int32_t* offsets);
  const ProductKernel& kernel(Scheme scheme) const;

 private:
  // The product of successive rows with one matrix.
  struct Job {
    const PanelWeight* w;
    int64_t first_row, rows;
    int64_t height, blocks, first_block;  // blocks of all jobs before this one
    size_t block_bytes, packed_at;        // where its activations begin among the packed ones
    int64_t task_panels, task_blocks, row_groups;
    int64_t first_task, tasks;
  };
  void add_job(const PanelWeight& w, int64_t first_row, int64_t rows);
  void run_jobs(const Tensor& out, const Tensor& x, const Epilogue& epilogue);
  void run_task(const Job& job, int64_t task, int thread, const Tensor& out, const Epilogue& epilogue);

  const ProductKernel* kernels_[3];  // by Scheme
  Pool& pool_;
  const RowOps& rows_;
  std::vector<Job> jobs_;      // of one call; grows to the largest group
  Scratch packed_;             // activations of one call
  std::vector<Scratch> sums_;  // of one task, per thread
};

}  // namespace sluice

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

// How the panels of one matrix are cut into records (product.h).
struct PanelLayout {
  Scheme scheme = Scheme::kF32;
  int64_t group = kDepth;  // k of a record; k is padded to a multiple of it

  bool quantised() const { return scheme >= Scheme::kInt8; }
  int64_t depth(int64_t cols) const { return (cols + group - 1) / group * group; }
  size_t record_bytes() const;
};

// Of packed weights in files: another layout of panels takes another name.
inline constexpr std::string_view kPanelPacking = "cpu-panels-1";

// Panels as product.h lays them out.
class PanelWeight : public Weight {
 public:
  // `scales` f32 [rows padded to panels] for kInt8; `order` i32 [cols] as HostGroups has it, or empty.
  PanelWeight(int64_t rows, int64_t cols, const PanelLayout& layout, Buffer data, Buffer scales = {},
              Buffer order = {});
  Scheme scheme() const { return layout_.scheme; }
  const PanelLayout& layout() const { return layout_; }
  const char* data() const { return static_cast<const char*>(data_.data()); }
  const float* scales() const { return static_cast<const float*>(scales_.data()); }
  const int32_t* order() const { return static_cast<const int32_t*>(order_.data()); }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t depth() const { return layout_.depth(cols_); }
  size_t panel_bytes() const { return static_cast<size_t>(depth() / layout_.group) * layout_.record_bytes(); }

  // Parts in files: panels u8 [panels, records, bytes], scales f32 [panels * kPanel], order i32 [cols].
  PackedForm form() const;
  static std::unique_ptr<PanelWeight> restore(PackedForm form);  // throws Error

 private:
  PanelLayout layout_;
  Buffer data_, scales_, order_;
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
  std::unique_ptr<Weight> pack_quantised(const HostMatrix& source, Scheme scheme);
  void pack_activations(const Job& job, int64_t block, const Tensor& x, int thread);
  void add_job(const PanelWeight& w, int64_t first_row, int64_t rows);
  void run_jobs(const Tensor& out, const Tensor& x, const Epilogue& epilogue);
  void run_task(const Job& job, int64_t task, int thread, const Tensor& out, const Epilogue& epilogue);

  const ProductKernel* kernels_[6];  // by Scheme
  Pool& pool_;
  const RowOps& rows_;
  bool call_ahead_;
  std::vector<Job> jobs_;         // of one call; grows to the largest group
  Scratch packed_;                // activations of one call
  std::vector<Scratch> ordered_;  // rows of activations in a weight's order, per thread
  std::vector<Scratch> sums_;     // of one task, per thread
};

}  // namespace sluice

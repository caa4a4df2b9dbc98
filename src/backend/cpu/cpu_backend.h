// SPDX-License-Identifier: Apache-2.0
// The backend of CPU ranks. Activations are f32 whatever the weights are; every result is independent of batch,
// chunking and thread count.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/panel_weight.h"
#include "backend/cpu/pool.h"
#include "backend/cpu/row_ops.h"

namespace sluice {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options);

  std::string_view name() const override { return "cpu"; }
  std::string describe() const override;
  DType activation_dtype(Scheme) const override { return DType::kF32; }
  DType cache_dtype(Scheme scheme) const override;
  Buffer allocate(size_t bytes) override { return allocate_pages(bytes); }
  size_t free_bytes() const override { return available_memory(); }
  void copy_in(const Tensor& device, const void* host) override;
  void copy_out(void* host, const Tensor& device) override;
  void start_copy_out(const Tensor& device) override;
  void finish_copy_out(void* host) override;
  std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme) override;
  std::string_view packing() const override { return kPanelPacking; }
  bool host_memory() const override { return true; }
  PackedForm form(const Weight& weight) const override { return static_cast<const PanelWeight&>(weight).form(); }
  std::unique_ptr<Weight> restore(PackedForm form) override { return PanelWeight::restore(std::move(form)); }

  void embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) override;
  void rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, float eps) override;
  void layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                  float eps) override;
  void linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) override;
  void rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const BatchView& batch,
                      int group, const AttentionShape& shape, const CacheLayer& cache) override;
  void attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group, const AttentionShape& shape,
                 const CacheLayer& cache) override;
  void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override;
  void activation(const Tensor& inout, Activation activation) override;
  void add(const Tensor& inout, const Tensor& other) override;
  void add_bias(const Tensor& inout, const Tensor& bias) override;
  void gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override;
  void scale(const Tensor& inout, float factor) override;
  void head_norm(const Tensor& inout, const Tensor& weight, float eps) override;
  void soft_cap(const Tensor& inout, float cap) override;
  void rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                 const LengthRotation& rule) override;
  void route(const Routing& out, const Tensor& logits, const RouterRule& rule) override;
  void grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                    const Tensor& bias) override;
  void clamped_swiglu(const Tensor& out, const Tensor& pairs) override;
  void combine(const Tensor& out, const Tensor& x, const Routing& routing) override;
  void add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) override;
  void copy_blocks(const Tensor& cache, const Tensor& pairs) override;

  std::unique_ptr<SamplerState> make_sampler(int64_t slots, int64_t vocab) override;
  void set_slot(SamplerState& state, int64_t slot, const SamplingParams& params, const int32_t* history,
                int64_t n_history, int64_t n_output) override;
  bool takes_masks() const override { return true; }
  void set_mask(SamplerState& state, int64_t slot, const uint32_t* words) override;
  void resolve_tokens(SamplerState& state, const Tensor& tokens, const Tensor& slots) override;
  void sample(SamplerState& state, const Tensor& out, const Tensor& logits, const Tensor& rows) override;

  // Vector units are full by then; tiles want more for each matrix that they read.
  int64_t enough_rows() const override { return isa_.amx_bf16 ? 256 : 64; }
  double probe_read_gbps(size_t bytes) override;

 private:
  // body(row) for each row, on all threads where there is enough to do: `work` elements in all.
  template <class Body>
  void rows(int64_t n, int64_t work, const Body& body) {
    constexpr int64_t kWorthThreads = 32768;  // elements: below, waking the others costs more than it saves
    const int64_t chunk = work < kWorthThreads ? n : std::max<int64_t>(1, n / (4 * pool_.threads()));
    pool_.split(n, chunk, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) body(row);
    });
  }

  CpuIsa isa_;
  Pool pool_;
  const RowOps& rows_;
  Products products_;
  AttentionOp attention_;
  std::vector<char> copies_[kCopiesOut];  // started and not yet finished, at their number modulo kCopiesOut
  uint64_t copies_begun_ = 0, copies_ended_ = 0;
  Buffer probe_;  // kept between probes, which come in series
};

}  // namespace sluice

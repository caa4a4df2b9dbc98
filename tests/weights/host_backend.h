// SPDX-License-Identifier: Apache-2.0
// A backend that only stores: packed weights are plain f32 rows that a test can read back.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "model/e4m3.h"
#include "weights/convert.h"

namespace sluice::test {

class PlainWeight : public Weight {
 public:
  PlainWeight(const HostMatrix& m, Scheme scheme)
      : Weight(m.rows, m.cols, static_cast<size_t>(m.rows * m.cols) * (scheme == Scheme::kF32 ? 4 : 2)),
        values(static_cast<size_t>(m.rows * m.cols)),
        quantised(m.groups != nullptr) {
    check(m.row_stride == m.cols, "staged matrices are contiguous");
    if (!quantised) {
      convert_elements(values.data(), DType::kF32, m.data, m.dtype, m.rows * m.cols);
      return;
    }
    check(m.dtype == DType::kU8 && scheme >= Scheme::kInt8, "numbers keep their scheme");
    const HostGroups& g = *m.groups;
    const int64_t groups = (m.cols + g.group - 1) / g.group;
    for (int64_t r = 0; r < m.rows; ++r) {
      for (int64_t k = 0; k < m.cols; ++k) {
        const int64_t at = r * groups + k / g.group;
        const float q = static_cast<const uint8_t*>(m.data)[r * m.cols + k];
        values[static_cast<size_t>(r * m.cols + (g.order != nullptr ? g.order[k] : k))] =
            scheme == Scheme::kFp8 ? e4m3(static_cast<int>(q)) * g.scale[at] : (q - g.zero[at]) * g.scale[at];
      }
    }
  }
  std::vector<float> values;
  bool quantised;
};

class StoringBackend : public Backend {
 public:
  std::string_view name() const override { return "storing"; }
  std::string describe() const override { return "memory only"; }
  DType activation_dtype(Scheme) const override { return DType::kF32; }
  DType cache_dtype(Scheme) const override { return DType::kF32; }
  Buffer allocate(size_t bytes) override { return Buffer::host(bytes); }
  size_t free_bytes() const override { return size_t{1} << 30; }
  void copy_in(const Tensor& device, const void* host) override { std::memcpy(device.data, host, device.bytes()); }
  void copy_out(void* host, const Tensor& device) override { std::memcpy(host, device.data, device.bytes()); }
  void start_copy_out(const Tensor&) override { none(); }
  void finish_copy_out(void*) override { none(); }
  bool packs_fp8 = false;
  bool packs(Scheme scheme) const override { return packs_fp8 || scheme != Scheme::kFp8; }
  std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme) override {
    return std::make_unique<PlainWeight>(source, scheme);
  }

  void embed(const Tensor&, const Tensor&, const Tensor&, int64_t) override { none(); }
  void rms_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, float) override { none(); }
  void layer_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float) override { none(); }
  void linear(const Tensor&, const Tensor&, const Weight&, const Epilogue&) override { none(); }
  void rope_and_cache(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const BatchView&, int,
                      const AttentionShape&, const CacheLayer&) override {
    none();
  }
  void attention(const Tensor&, const Tensor&, const BatchView&, int, const AttentionShape&,
                 const CacheLayer&) override {
    none();
  }
  void gated_activation(const Tensor&, const Tensor&, Activation) override { none(); }
  void activation(const Tensor&, Activation) override { none(); }
  void add(const Tensor&, const Tensor&) override { none(); }
  void add_bias(const Tensor&, const Tensor&) override { none(); }
  void gather_rows(const Tensor&, const Tensor&, const Tensor&) override { none(); }
  void copy_blocks(const Tensor&, const Tensor&) override { none(); }
  void scale(const Tensor&, float) override { none(); }
  void head_norm(const Tensor&, const Tensor&, float) override { none(); }
  void soft_cap(const Tensor&, float) override { none(); }
  void rotations(const Tensor&, const Tensor&, const Tensor&, const LengthRotation&) override { none(); }
  void route(const Routing&, const Tensor&, const RouterRule&) override { none(); }
  void grouped_gemm(const Tensor&, const Tensor&, const WeightGroup&, const Tensor&, const Tensor&) override { none(); }
  void clamped_swiglu(const Tensor&, const Tensor&) override { none(); }
  void combine(const Tensor&, const Tensor&, const Routing&) override { none(); }
  void add_gated(const Tensor&, const Tensor&, const Tensor&) override { none(); }
  std::unique_ptr<SamplerState> make_sampler(int64_t, int64_t) override { none(); }
  void set_slot(SamplerState&, int64_t, const SamplingParams&, const int32_t*, int64_t, int64_t) override { none(); }
  void resolve_tokens(SamplerState&, const Tensor&, const Tensor&) override { none(); }
  void sample(SamplerState&, const Tensor&, const Tensor&, const Tensor&) override { none(); }
  double probe_read_gbps(size_t) override { none(); }

 private:
  [[noreturn]] static void none() { fatal("the storing backend computes nothing"); }
};

}  // namespace sluice::test

// SPDX-License-Identifier: Apache-2.0
// The backend of GPU ranks: every op queues kernels on one stream. Activations and cache have the dtype of the weights,
// sums are f32.
#pragma once

#include <string>

#include "backend/backend.h"
#include "backend/cuda.h"
#include "backend/cuda/graphs.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/products.h"
#include "kernels/attention.h"

namespace sluice::cuda {

// Owned by the backend and destroyed last: buffers of models and executors are freed in the order of the stream.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaBackend final : public Backend {
 public:
  // The calling thread is bound to the device.
  CudaBackend(const CudaOptions& options, const CudaDevice& device);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  std::string describe() const override;
  DType activation_dtype(Scheme scheme) const override { return stored(scheme); }
  DType cache_dtype(Scheme scheme) const override { return stored(scheme); }

  Buffer allocate(size_t bytes) override { return allocate_device(bytes, stream_); }
  size_t free_bytes() const override;
  void copy_in(const Tensor& device, const void* host) override;
  void copy_out(void* host, const Tensor& device) override;
  void start_copy_out(const Tensor& device) override;
  void finish_copy_out(void* host) override { downloads_.finish(host); }
  std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme) override;
  bool packs(Scheme) const override { return true; }
  std::string_view packing() const override;
  std::unique_ptr<Weight> restore(PackedForm form) override;

  Buffer allocate_staging(size_t bytes) override { return PinnedMemory::allocate(bytes, options_.device); }
  uint64_t mark_copies() override;
  void wait_copies(uint64_t mark) override;
  bool copy_in_converted(const Tensor& device, const void* host, DType from) override;

  void embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) override;
  void rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, float eps) override;
  void layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                  float eps) override;
  void linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) override;
  void fused_linear(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const Weight& weight,
                    const Epilogue& epilogue, const Activation* gate, const Tensor& h, const Tensor& product) override;
  void rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const BatchView& batch,
                      int group, const AttentionShape& shape, const CacheLayer& cache) override;
  void attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group, const AttentionShape& shape,
                 const CacheLayer& cache) override;
  void attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
              const Tensor& positions, const BatchView& batch, int group, const AttentionShape& shape,
              const CacheLayer& cache) override;
  bool fold_norm(Weight& weight, const Tensor& norm) override;
  void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override;
  void activation(const Tensor& inout, Activation activation) override;
  void add(const Tensor& inout, const Tensor& other) override;
  void add_bias(const Tensor& inout, const Tensor& bias) override;
  void scale(const Tensor& inout, float factor) override;
  void head_norm(const Tensor& inout, const Tensor& weight, float eps) override;
  void soft_cap(const Tensor& inout, float cap) override;
  void rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                 const LengthRotation& rule) override;
  std::unique_ptr<WeightGroup> group(std::vector<std::unique_ptr<Weight>> members) override;
  void route(const Routing& out, const Tensor& logits, const RouterRule& rule) override;
  void grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                    const Tensor& bias) override;
  void clamped_swiglu(const Tensor& out, const Tensor& pairs) override;
  void combine(const Tensor& out, const Tensor& x, const Routing& routing) override;
  void add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) override;
  void gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override;
  void copy_blocks(const Tensor& cache, const Tensor& pairs) override;

  std::unique_ptr<SamplerState> make_sampler(int64_t slots, int64_t vocab) override;
  void set_slot(SamplerState& state, int64_t slot, const SamplingParams& params, const int32_t* history,
                int64_t n_history, int64_t n_output) override;
  bool takes_masks() const override { return true; }
  void set_mask(SamplerState& state, int64_t slot, const uint32_t* words) override;
  void resolve_tokens(SamplerState& state, const Tensor& tokens, const Tensor& slots) override;
  void sample(SamplerState& state, const Tensor& out, const Tensor& logits, const Tensor& rows) override;

  bool asynchronous() const override { return true; }
  int64_t decode_bucket(int64_t rows) const override;
  void run_step(uint64_t key, const std::function<void()>& body) override { graphs_.run(key, body); }
  void forget_steps() override { graphs_.clear(); }

  double probe_read_gbps(size_t bytes) override;
  cudaStream_t stream() const { return stream_; }

 private:
  std::unique_ptr<Weight> pack_narrow(const HostMatrix& source, Scheme scheme);
  // `rows` rows of `width` from host memory, converted on the way, to `device` (to, `stride` elements apart).
  void upload(void* device, DType to, int64_t stride, const void* host, DType from, int64_t host_stride, int64_t rows,
              int64_t width);
  static kernels::RopeCacheParams rope_params(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                              const Tensor& positions, const BatchView& batch, int group,
                                              const AttentionShape& shape, const CacheLayer& cache);
  kernels::AttentionParams attention_params(const Tensor& out, const Tensor& q, const BatchView& batch, int group,
                                            const AttentionShape& shape, const CacheLayer& cache);
  void norm(bool rms, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
            const Tensor& bias, float eps);

  CudaOptions options_;
  CudaDevice device_;
  int multiprocessors_ = 0;
  Stream stream_;
  UploadRing ring_;
  Downloads downloads_;
  Products products_;
  Graphs graphs_;
  Workspace attention_work_, sample_work_, convert_work_, route_work_;
  static constexpr int kMarks = 4;
  cudaEvent_t marks_[kMarks];
  uint64_t marked_ = 0;
  Buffer probe_;
};

}  // namespace sluice::cuda

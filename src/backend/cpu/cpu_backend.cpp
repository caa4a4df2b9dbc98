// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_backend.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "backend/cpu/simd.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {

constexpr int64_t kWorthThreads = 32768;  // elements: below, waking the others costs more than it saves

int cpus_of_mask() {
  cpu_set_t mask;
  return ::sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask)
                                                         : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

int thread_count(const CpuOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1, cpus_of_mask() / std::max(1, options.local_ranks));
}

CpuOptions resolve(CpuOptions options) {
  if (const char* isa = std::getenv("SLUICE_CPU_ISA"); options.isa == "auto" && isa != nullptr && *isa != '\0')
    options.isa = isa;
  if (options.isa != "auto" && options.isa != "avx2")
    throw Error(fmt::format("cpu-isa: expected auto or avx2, found '{}'", options.isa));
  if (options.isa == "avx2") simd::cap_to_avx2();
  return options;
}

DType stored(Scheme scheme) {
  return scheme == Scheme::kBF16 ? DType::kBF16 : scheme == Scheme::kF16 ? DType::kF16 : DType::kF32;
}

float activate(float x, Activation activation) {
  constexpr float kRootTwoOverPi = 0.7978845608028654f;
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0f + std::exp(-x));
    case Activation::kGeluErf:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + std::tanh(kRootTwoOverPi * (x + 0.044715f * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0f);
  }
  return x;
}

float* at(const Tensor& t, int64_t row) { return static_cast<float*>(t.row(row)); }

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : pool_(thread_count(options), thread_count(options) * std::max(1, options.local_ranks) <= cpus_of_mask()),
      attention_(static_cast<size_t>(pool_.threads())) {}

std::string CpuBackend::describe() const {
  return fmt::format("cpu, {} thread{}, {}", pool_.threads(), pool_.threads() == 1 ? "" : "s", simd::target_name());
}

DType CpuBackend::cache_dtype(Scheme scheme) const { return stored(scheme); }

void CpuBackend::copy_in(const Tensor& device, const void* host) {
  check(device.contiguous(), "copies are of contiguous tensors");
  std::memcpy(device.data, host, device.bytes());
}

void CpuBackend::copy_out(void* host, const Tensor& device) {
  check(device.contiguous(), "copies are of contiguous tensors");
  std::memcpy(host, device.data, device.bytes());
}

std::unique_ptr<Weight> CpuBackend::pack(const HostMatrix& source, Scheme scheme) {
  return PanelWeight::pack(source, stored(scheme), pool_);
}

template <class Body>
void CpuBackend::rows(int64_t n, int64_t work, const Body& body) {
  const int64_t chunk = work < kWorthThreads ? n : std::max<int64_t>(1, n / (4 * pool_.threads()));
  pool_.split(n, chunk, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

void CpuBackend::embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) {
  const int64_t width = table.dim(1);
  check(out.dim(1) == width && out.dim(0) == ids.dim(0), "embed: shapes do not fit");
  rows(out.dim(0), out.elements(), [&](int64_t t) {
    const int64_t id = ids.as<int32_t>()[t] - first_id;
    if (id < 0 || id >= table.dim(0)) {
      std::memset(out.row(t), 0, static_cast<size_t>(width) * sizeof(float));
    } else {
      simd::widen(at(out, t), table.row(id), table.dtype, width);
    }
  });
}

void CpuBackend::rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, float eps) {
  check(out.dim(1) == weight.dim(0) && x.dim(1) == weight.dim(0), "rms_norm: shapes do not fit");
  rows(x.dim(0), x.elements(), [&](int64_t t) {
    simd::rms_norm(at(out, t), at(x, t), residual ? at(residual, t) : nullptr, weight.as<float>(), x.dim(1), eps);
  });
}

void CpuBackend::layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                            const Tensor& bias, float eps) {
  check(out.dim(1) == weight.dim(0) && x.dim(1) == weight.dim(0), "layer_norm: shapes do not fit");
  rows(x.dim(0), x.elements(), [&](int64_t t) {
    simd::layer_norm(at(out, t), at(x, t), residual ? at(residual, t) : nullptr, weight.as<float>(), bias.as<float>(),
                     x.dim(1), eps);
  });
}

void CpuBackend::linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) {
  static_cast<const PanelWeight&>(weight).product(out, x, epilogue, pool_, products_);
}

void CpuBackend::rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                const BatchView& batch, int group, const AttentionShape& shape,
                                const CacheLayer& cache) {
  const int64_t dim = shape.head_dim, block = cache.k.dim(2), half = table ? table.dim(1) / 2 : 0;
  const size_t width = dtype_bytes(cache.k.dtype);
  rows(q.dim(0), q.elements() + 2 * k.elements(), [&](int64_t t) {
    if (half > 0) {
      const float* cos = at(table, batch.positions.as<int32_t>()[t]);
      for (int64_t h = 0; h < shape.n_heads; ++h) simd::rotate(at(q, t) + h * dim, cos, cos + half, half);
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) simd::rotate(at(k, t) + h * dim, cos, cos + half, half);
    }
    const int64_t slot = batch.cache[group].slots.as<int32_t>()[t];
    if (slot < 0) return;
    const int64_t b = slot / block, j = slot % block;
    for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
      // Keys lie transposed inside a block, [head_dim][block], so that attention scores a vector of keys at once.
      auto* keys =
          static_cast<uint8_t*>(cache.k.data) + static_cast<size_t>((b * shape.n_kv_heads + h) * block * dim) * width;
      auto* values = static_cast<uint8_t*>(cache.v.data) +
                     static_cast<size_t>(((b * shape.n_kv_heads + h) * block + j) * dim) * width;
      const float* key = at(k, t) + h * dim;
      for (int64_t d = 0; d < dim; ++d) {
        uint8_t* to = keys + static_cast<size_t>(d * block + j) * width;
        switch (cache.k.dtype) {
          case DType::kF32:
            *reinterpret_cast<float*>(to) = key[d];
            break;
          case DType::kBF16:
            *reinterpret_cast<uint16_t*>(to) = f32_to_bf16(key[d]);
            break;
          default:
            *reinterpret_cast<uint16_t*>(to) = f32_to_f16(key[d]);
            break;
        }
      }
      simd::narrow(values, at(v, t) + h * dim, cache.v.dtype, dim);
    }
  });
}

void CpuBackend::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  const int64_t width = out.dim(1);
  check(gate_up.dim(1) == 2 * width, "gated_activation: expected gate and up side by side");
  rows(out.dim(0), 4 * out.elements(), [&](int64_t t) {
    const float *gate = at(gate_up, t), *up = gate + width;
    if (activation == Activation::kSilu) return simd::silu_gate(at(out, t), gate, up, width);
    for (int64_t i = 0; i < width; ++i) at(out, t)[i] = activate(gate[i], activation) * up[i];
  });
}

void CpuBackend::activation(const Tensor& inout, Activation activation) {
  rows(inout.dim(0), 4 * inout.elements(), [&](int64_t t) {
    if (activation == Activation::kSilu) return simd::silu(at(inout, t), inout.dim(1));
    for (int64_t i = 0; i < inout.dim(1); ++i) at(inout, t)[i] = activate(at(inout, t)[i], activation);
  });
}

void CpuBackend::add(const Tensor& inout, const Tensor& other) {
  rows(inout.dim(0), inout.elements(), [&](int64_t t) { simd::add(at(inout, t), at(other, t), inout.dim(1)); });
}

void CpuBackend::add_bias(const Tensor& inout, const Tensor& bias) {
  rows(inout.dim(0), inout.elements(), [&](int64_t t) { simd::add(at(inout, t), bias.as<float>(), inout.dim(1)); });
}

void CpuBackend::gather_rows(const Tensor& out, const Tensor& x, const Tensor& indices) {
  rows(out.dim(0), out.elements(), [&](int64_t t) {
    std::memcpy(out.row(t), x.row(indices.as<int32_t>()[t]), static_cast<size_t>(x.dim(1)) * dtype_bytes(x.dtype));
  });
}

void CpuBackend::copy_blocks(const Tensor& cache, const Tensor& pairs) {
  const size_t bytes = static_cast<size_t>(cache.row_elements()) * dtype_bytes(cache.dtype);
  for (int64_t i = 0; i < pairs.dim(0); ++i)
    std::memcpy(cache.row(pairs.as<int32_t>()[2 * i + 1]), cache.row(pairs.as<int32_t>()[2 * i]), bytes);
}

double CpuBackend::probe_read_gbps(size_t bytes) {
  bytes = bytes / 4096 * 4096;
  if (probe_.bytes() < bytes) {
    probe_ = allocate_pages(bytes);
    pool_.split(static_cast<int64_t>(bytes), 1 << 20, [&](int64_t begin, int64_t end, int) {
      std::memset(static_cast<char*>(probe_.data()) + begin, 1, static_cast<size_t>(end - begin));
    });
  }
  double best = 0;
  std::atomic<uint64_t> total{0};  // keeps the reads from being optimised away
  for (int pass = 0; pass < 3; ++pass) {
    const double started = monotonic_seconds();
    pool_.split(static_cast<int64_t>(bytes), 4 << 20, [&](int64_t begin, int64_t end, int) {
      total += simd::read_all(static_cast<const char*>(probe_.data()) + begin, end - begin);
    });
    best = std::max(best, static_cast<double>(bytes) / (monotonic_seconds() - started) * 1e-9);
  }
  check(total != 0, "the read probe found nothing");
  return best;
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(resolve(options));
}

}  // namespace sluice

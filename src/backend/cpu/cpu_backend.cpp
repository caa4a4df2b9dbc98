// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_backend.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "backend/cpu/shapes.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {

int cpus_of_mask() {
  cpu_set_t mask;
  return ::sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask)
                                                         : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

int thread_count(const CpuOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1, cpus_of_mask() / std::max(1, options.local_ranks));
}

std::string_view isa_name(const CpuOptions& options) {
  const char* variable = std::getenv("SLUICE_CPU_ISA");
  return options.isa == "auto" && variable != nullptr && *variable != '\0' ? variable : std::string_view(options.isa);
}

DType stored(Scheme scheme) {
  return scheme == Scheme::kBF16 ? DType::kBF16 : scheme == Scheme::kF16 ? DType::kF16 : DType::kF32;
}

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

void check_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, DType::kF32, n, width) && is_matrix(x, DType::kF32, n, width) &&
            (!residual || is_matrix(residual, DType::kF32, n, width)) && is_vector(weight, DType::kF32, width),
        "norm: shapes do not fit");
}

// K and V of the shape's heads, [blocks, n_kv_heads, block_size, head_dim] each.
void check_cache(const CacheLayer& cache, const AttentionShape& shape) {
  const Tensor &k = cache.k, &v = cache.v;
  check(k.rank == 4 && v.rank == 4 && k.shape == v.shape && k.row_stride == v.row_stride && k.dtype == v.dtype &&
            is_float(k.dtype) && k.dim(1) == shape.n_kv_heads && k.dim(3) == shape.head_dim &&
            shape.n_heads % shape.n_kv_heads == 0,
        "the cache's layout does not fit the attention's");
}

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : isa_(detect_isa(isa_name(options))),
      pool_(thread_count(options), thread_count(options) * std::max(1, options.local_ranks) <= cpus_of_mask()),
      rows_(row_ops(isa_.vector_targets)),
      products_(isa_, pool_, rows_),
      attention_(isa_, pool_) {}

std::string CpuBackend::describe() const {
  return fmt::format("cpu, {} thread{}, {}", pool_.threads(), pool_.threads() == 1 ? "" : "s", isa_.name);
}

DType CpuBackend::cache_dtype(Scheme scheme) const { return stored(scheme); }

void CpuBackend::copy_in(const Tensor& device, const void* host) {
  if (device.contiguous()) {
    std::memcpy(device.data, host, device.bytes());
    return;
  }
  const size_t row = static_cast<size_t>(device.row_elements()) * dtype_bytes(device.dtype);
  for (int64_t r = 0; r < device.dim(0); ++r)
    std::memcpy(device.row(r), static_cast<const char*>(host) + static_cast<size_t>(r) * row, row);
}

void CpuBackend::copy_out(void* host, const Tensor& device) {
  check(device.contiguous(), "copies are of contiguous tensors");
  std::memcpy(host, device.data, device.bytes());
}

void CpuBackend::start_copy_out(const Tensor& device) {
  check(copies_begun_ - copies_ended_ < kCopiesOut, "too many copies to the host are under way");
  std::vector<char>& held = copies_[copies_begun_++ % kCopiesOut];
  held.resize(device.bytes());
  copy_out(held.data(), device);
}

void CpuBackend::finish_copy_out(void* host) {
  check(copies_begun_ > copies_ended_, "no copy to the host is under way");
  const std::vector<char>& held = copies_[copies_ended_++ % kCopiesOut];
  std::memcpy(host, held.data(), held.size());
}

std::unique_ptr<Weight> CpuBackend::pack(const HostMatrix& source, Scheme scheme) {
  const bool quantised = PanelLayout{scheme}.quantised() && packs(scheme);
  check(source.rows > 0 && source.cols > 0 && source.row_stride >= source.cols &&
            (source.groups == nullptr ? is_float(source.dtype) : quantised && source.dtype == DType::kU8),
        "a matrix to pack is neither a float matrix nor quantised as its scheme");
  return products_.pack(source, scheme);
}

void CpuBackend::embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) {
  const int64_t width = table.dim(1);
  check(table.rank == 2 && is_float(table.dtype) && is_matrix(out, DType::kF32, out.dim(0), width) &&
            is_vector(ids, DType::kI32, out.dim(0)),
        "embed: shapes do not fit");
  rows(out.dim(0), out.elements(), [&](int64_t t) {
    const int64_t id = ids.as<int32_t>()[t] - first_id;
    if (id < 0 || id >= table.dim(0)) {
      std::memset(out.row(t), 0, static_cast<size_t>(width) * sizeof(float));
    } else {
      rows_.widen(at(out, t), table.row(id), table.dtype, width);
    }
  });
}

void CpuBackend::rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, float eps) {
  check_norm(out, x, residual, weight);
  rows(x.dim(0), x.elements(), [&](int64_t t) {
    rows_.rms_norm(at(out, t), at(x, t), residual ? at(residual, t) : nullptr, weight.as<float>(), x.dim(1), eps);
  });
}

void CpuBackend::layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                            const Tensor& bias, float eps) {
  check_norm(out, x, residual, weight);
  check(!bias || is_vector(bias, DType::kF32, x.dim(1)), "layer_norm: the bias does not fit");
  rows(x.dim(0), x.elements(), [&](int64_t t) {
    rows_.layer_norm(at(out, t), at(x, t), residual ? at(residual, t) : nullptr, weight.as<float>(), bias.as<float>(),
                     x.dim(1), eps);
  });
}

void CpuBackend::linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) {
  check(is_matrix(x, DType::kF32, out.dim(0), weight.cols()) &&
            is_matrix(out, DType::kF32, out.dim(0), weight.rows()) &&
            (!epilogue.bias || is_vector(epilogue.bias, DType::kF32, weight.rows())) &&
            (!epilogue.residual || is_matrix(epilogue.residual, DType::kF32, out.dim(0), weight.rows())),
        "linear: shapes do not fit");
  if (out.dim(0) > 0) products_.run(out, x, static_cast<const PanelWeight&>(weight), epilogue);
}

void CpuBackend::rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                const BatchView& batch, int group, const AttentionShape& shape,
                                const CacheLayer& cache) {
  const int64_t n = batch.rows, dim = shape.head_dim, block = cache.k.dim(2), half = table ? table.dim(1) / 2 : 0;
  const Tensor& slots = batch.cache[group].slots;
  check_cache(cache, shape);
  check(is_matrix(q, DType::kF32, n, shape.n_heads * dim) && is_matrix(k, DType::kF32, n, shape.n_kv_heads * dim) &&
            is_matrix(v, DType::kF32, n, shape.n_kv_heads * dim) && is_vector(slots, DType::kI32, n) &&
            is_vector(batch.positions, DType::kI32, n) &&
            (!table || (table.dtype == DType::kF32 && table.dim(1) % 2 == 0 && table.dim(1) <= dim)),
        "rope_and_cache: shapes do not fit");
  const size_t width = dtype_bytes(cache.k.dtype);
  rows(n, q.elements() + 2 * k.elements(), [&](int64_t t) {
    if (half > 0) {
      const int32_t position = batch.positions.as<int32_t>()[t];
      check(position >= 0 && position < table.dim(0), "a position is beyond the rotation table");
      const float* cos = at(table, position);
      for (int64_t h = 0; h < shape.n_heads; ++h) rows_.rotate(at(q, t) + h * dim, cos, cos + half, half);
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) rows_.rotate(at(k, t) + h * dim, cos, cos + half, half);
    }
    const int64_t slot = slots.as<int32_t>()[t];
    if (slot < 0) return;
    check(slot < cache.k.dim(0) * block, "a cache slot is out of range");
    for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
      const size_t place = static_cast<size_t>((h * block + slot % block) * dim) * width;
      rows_.narrow(static_cast<char*>(cache.k.row(slot / block)) + place, cache.k.dtype, at(k, t) + h * dim, dim);
      rows_.narrow(static_cast<char*>(cache.v.row(slot / block)) + place, cache.v.dtype, at(v, t) + h * dim, dim);
    }
  });
}

void CpuBackend::attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group,
                           const AttentionShape& shape, const CacheLayer& cache) {
  const Tensor& table = batch.cache[group].block_table;
  const int64_t width = shape.n_heads * shape.head_dim;
  check_cache(cache, shape);
  check(is_matrix(out, DType::kF32, batch.rows, width) && is_matrix(q, DType::kF32, batch.rows, width) &&
            is_vector(batch.first_row, DType::kI32, batch.seqs + 1) &&
            is_vector(batch.context, DType::kI32, batch.seqs) && table.rank == 2 && table.dtype == DType::kI32 &&
            table.dim(0) >= batch.seqs &&
            (!shape.alibi_slopes || is_vector(shape.alibi_slopes, DType::kF32, shape.n_heads)) &&
            (!shape.sinks || is_vector(shape.sinks, DType::kF32, shape.n_heads)) &&
            (!shape.distance_bias ||
             (shape.distance_bias.dim(1) % 2 == 1 &&
              is_matrix(shape.distance_bias, DType::kF32, shape.n_heads, shape.distance_bias.dim(1)))) &&
            (!batch.cache[group].context || is_vector(batch.cache[group].context, DType::kI32, batch.seqs)),
        "attention: shapes do not fit");
  attention_.run(out, q, batch, batch.cache[group], shape, cache);
}

void CpuBackend::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, DType::kF32, n, width) && is_matrix(gate_up, DType::kF32, n, 2 * width),
        "gated_activation: expected gate and up side by side");
  rows(n, 4 * out.elements(),
       [&](int64_t t) { rows_.gate(at(out, t), at(gate_up, t), at(gate_up, t) + width, width, activation); });
}

void CpuBackend::activation(const Tensor& inout, Activation activation) {
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)), "activation: expected an f32 matrix");
  rows(inout.dim(0), 4 * inout.elements(), [&](int64_t t) { rows_.activate(at(inout, t), inout.dim(1), activation); });
}

void CpuBackend::add(const Tensor& inout, const Tensor& other) {
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)) &&
            is_matrix(other, DType::kF32, inout.dim(0), inout.dim(1)),
        "add: shapes do not fit");
  rows(inout.dim(0), inout.elements(), [&](int64_t t) { rows_.add(at(inout, t), at(other, t), inout.dim(1)); });
}

void CpuBackend::add_bias(const Tensor& inout, const Tensor& bias) {
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)) && is_vector(bias, DType::kF32, inout.dim(1)),
        "add_bias: shapes do not fit");
  rows(inout.dim(0), inout.elements(), [&](int64_t t) { rows_.add(at(inout, t), bias.as<float>(), inout.dim(1)); });
}

void CpuBackend::scale(const Tensor& inout, float factor) {
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)), "scale: expected an f32 matrix");
  rows(inout.dim(0), inout.elements(), [&](int64_t t) { rows_.scale(at(inout, t), inout.dim(1), factor); });
}

void CpuBackend::soft_cap(const Tensor& inout, float cap) {
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)) && cap > 0, "soft_cap: expected an f32 matrix");
  rows(inout.dim(0), 4 * inout.elements(), [&](int64_t t) { rows_.soft_cap(at(inout, t), inout.dim(1), cap); });
}

void CpuBackend::head_norm(const Tensor& inout, const Tensor& weight, float eps) {
  const int64_t width = weight.dim(0);
  check(is_matrix(inout, DType::kF32, inout.dim(0), inout.dim(1)) && is_vector(weight, DType::kF32, width) &&
            inout.dim(1) % width == 0,
        "head_norm: expected whole heads");
  rows(inout.dim(0), inout.elements(), [&](int64_t t) {
    for (float* head = at(inout, t); head < at(inout, t) + inout.dim(1); head += width)
      rows_.rms_norm(head, head, nullptr, weight.as<float>(), width, eps);
  });
}

void CpuBackend::rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                           const LengthRotation& rule) {
  const int64_t n = out.dim(0), half = out.dim(1) / 2;
  check(is_matrix(out, DType::kF32, n, 2 * half) && is_vector(positions, DType::kI32, n) &&
            is_vector(lengths, DType::kI32, n) && is_matrix(rule.frequencies, DType::kF32, 2, half),
        "rotations: shapes do not fit");
  rows(n, 32 * n * half, [&](int64_t t) {
    const int32_t position = positions.as<int32_t>()[t];
    const int64_t length = std::max<int64_t>(lengths.as<int32_t>()[t], position + 1);
    const bool beyond = length > rule.original;
    const float* frequencies = at(rule.frequencies, beyond ? 1 : 0);
    const float grown =
        rule.factor * static_cast<float>(length) / static_cast<float>(rule.original) - (rule.factor - 1);
    const float base = beyond && rule.growth > 0 ? rule.theta * std::pow(grown, rule.growth) : 0;
    for (int64_t i = 0; i < half; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * half);
      const float inverse =
          base > 0 ? 1.0f / static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)))
                   : frequencies[i];
      const float angle = static_cast<float>(position) * inverse;
      at(out, t)[i] = std::cos(angle) * rule.scale;
      at(out, t)[half + i] = std::sin(angle) * rule.scale;
    }
  });
}

void CpuBackend::gather_rows(const Tensor& out, const Tensor& x, const Tensor& indices) {
  check(out.rank == 2 && x.rank == 2 && out.dtype == x.dtype && out.dim(1) == x.dim(1) &&
            is_vector(indices, DType::kI32, out.dim(0)),
        "gather_rows: shapes do not fit");
  rows(out.dim(0), out.elements(), [&](int64_t t) {
    const int32_t row = indices.as<int32_t>()[t];
    check(row >= 0 && row < x.dim(0), "gather_rows: a row is out of range");
    std::memcpy(out.row(t), x.row(row), static_cast<size_t>(x.dim(1)) * dtype_bytes(x.dtype));
  });
}

void CpuBackend::copy_blocks(const Tensor& cache, const Tensor& pairs) {
  check(is_matrix(pairs, DType::kI32, pairs.dim(0), 2), "copy_blocks: expected pairs of block ids");
  const size_t bytes = static_cast<size_t>(cache.row_elements()) * dtype_bytes(cache.dtype);
  for (int64_t i = 0; i < pairs.dim(0); ++i) {  // in order: a copy may be copied on
    const auto* pair = static_cast<const int32_t*>(pairs.row(i));
    check(std::min(pair[0], pair[1]) >= 0 && std::max(pair[0], pair[1]) < cache.dim(0),
          "copy_blocks: a block is out of range");
    if (pair[0] != pair[1]) std::memcpy(cache.row(pair[1]), cache.row(pair[0]), bytes);
  }
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
      total += rows_.read(static_cast<const char*>(probe_.data()) + begin, static_cast<size_t>(end - begin));
    });
    best = std::max(best, static_cast<double>(bytes) / (monotonic_seconds() - started) * 1e-9);
  }
  check(total != 0, "the read probe found nothing");
  return best;
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) { return std::make_unique<CpuBackend>(options); }

}  // namespace sluice

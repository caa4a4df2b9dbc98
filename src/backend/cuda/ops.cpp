// SPDX-License-Identifier: Apache-2.0
// Each op: shapes checked, one parameter struct filled, one launch.
#include <algorithm>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/shapes.h"
#include "kernels/attention.h"
#include "kernels/cache.h"
#include "kernels/rows.h"

namespace sluice::cuda {
namespace {

void check_cache(const CacheLayer& cache, const AttentionShape& shape, DType dtype) {
  const Tensor &k = cache.k, &v = cache.v;
  check(k.rank == 4 && v.rank == 4 && k.shape == v.shape && k.row_stride == v.row_stride && k.dtype == dtype &&
            v.dtype == dtype && k.dim(1) == shape.n_kv_heads && k.dim(3) == shape.head_dim &&
            shape.n_heads % shape.n_kv_heads == 0,
        "the cache's layout does not fit the attention's");
}

}  // namespace

void CudaBackend::embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) {
  check(is_matrix(table, table.dim(0), table.dim(1)) && is_matrix(out, out.dim(0), table.dim(1)) &&
            is_vector(ids, DType::kI32, out.dim(0)),
        "embed: shapes do not fit");
  kernels::EmbedParams p{};
  p.out = out.data;
  p.table = table.data;
  p.ids = ids.as<int32_t>();
  p.rows = out.dim(0);
  p.width = out.dim(1);
  p.vocab = table.dim(0);
  p.first_id = first_id;
  p.out_stride = out.row_stride;
  p.table_stride = table.row_stride;
  p.type = type_of(out.dtype);
  p.table_type = type_of(table.dtype);
  SLUICE_CUDA(kernels::embed(p, stream_));
}

void CudaBackend::norm(bool rms, const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                       const Tensor& bias, float eps) {
  const int64_t n = out.dim(0), width = out.dim(1);
  check(is_matrix(out, n, width) && is_matrix(x, n, width) && out.dtype == x.dtype &&
            (!residual || (is_matrix(residual, n, width) && residual.dtype == x.dtype)) &&
            is_vector(weight, DType::kF32, width) && (!bias || is_vector(bias, DType::kF32, width)),
        "norm: shapes do not fit");
  kernels::NormParams p{};
  p.out = out.data;
  p.x = x.data;
  p.residual = residual.data;
  p.weight = weight.as<float>();
  p.bias = bias.as<float>();
  p.rows = n;
  p.width = width;
  p.out_stride = out.row_stride;
  p.x_stride = x.row_stride;
  p.residual_stride = residual ? residual.row_stride : 0;
  p.eps = eps;
  p.type = type_of(x.dtype);
  SLUICE_CUDA(rms ? kernels::rms_norm(p, stream_) : kernels::layer_norm(p, stream_));
}

void CudaBackend::rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                           float eps) {
  norm(true, out, x, residual, weight, {}, eps);
}

void CudaBackend::layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                             const Tensor& bias, float eps) {
  norm(false, out, x, residual, weight, bias, eps);
}

void CudaBackend::linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) {
  const auto& w = static_cast<const CudaWeight&>(weight);
  check(is_matrix(x, out.dim(0), w.cols()) && is_matrix(out, out.dim(0), w.rows()) && w.takes(x.dtype) &&
            (out.dtype == x.dtype || out.dtype == DType::kF32) &&
            (!epilogue.bias || is_vector(epilogue.bias, DType::kF32, w.rows())) &&
            (!epilogue.residual ||
             (is_matrix(epilogue.residual, out.dim(0), w.rows()) && epilogue.residual.dtype == x.dtype)),
        "linear: shapes do not fit");
  if (out.dim(0) > 0) products_.run(out, x, w, epilogue);
}

void CudaBackend::fused_linear(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const Weight& weight,
                               const Epilogue& epilogue, const Activation* gate, const Tensor& h,
                               const Tensor& product) {
  const auto& w = static_cast<const CudaWeight&>(weight);
  check(is_matrix(x, out.dim(0), w.cols()) && w.takes(x.dtype) && out.dtype == x.dtype &&
            out.dim(1) * (gate != nullptr ? 2 : 1) == w.rows() && (!norm || is_vector(norm, DType::kF32, w.cols())),
        "fused_linear: shapes do not fit");
  if (out.dim(0) == 0 || products_.run_fused(out, x, norm, eps, w, epilogue, gate)) return;
  if (w.folded && norm && gate != nullptr && products_.takes_folded(out.dim(0)))
    return products_.run_folded(out, x, eps, w, *gate, product);
  if (norm) rms_norm(h, x, {}, norm, eps);
  const Tensor& in = norm ? h : x;
  if (gate != nullptr && norm && products_.run_fused(out, in, {}, eps, w, epilogue, gate)) return;
  Backend::fused_linear(out, in, {}, eps, weight, epilogue, gate, h, product);
}

bool CudaBackend::fold_norm(Weight& weight, const Tensor& norm) {
  auto& w = static_cast<CudaWeight&>(weight);
  if (options_.deterministic || w.narrow() || w.dtype == DType::kF32) return false;
  check(is_vector(norm, DType::kF32, w.cols()), "fold_norm: shapes do not fit");
  SLUICE_CUDA(kernels::scale_columns({w.data.data(), norm.as<float>(), w.rows(), w.cols(), w.stride, type_of(w.dtype)},
                                     stream_));
  w.folded = true;
  return true;
}

kernels::RopeCacheParams CudaBackend::rope_params(const Tensor& q, const Tensor& k, const Tensor& v,
                                                  const Tensor& table, const Tensor& positions, const BatchView& batch,
                                                  int group, const AttentionShape& shape, const CacheLayer& cache) {
  const CacheIndex& index = batch.cache[group];
  check_cache(cache, shape, q.dtype);
  check(is_matrix(q, batch.rows, shape.n_heads * shape.head_dim) &&
            is_matrix(k, batch.rows, shape.n_kv_heads * shape.head_dim) &&
            is_matrix(v, batch.rows, shape.n_kv_heads * shape.head_dim) && k.dtype == q.dtype && v.dtype == q.dtype &&
            is_vector(positions, DType::kI32, batch.rows) && is_vector(index.slots, DType::kI32, batch.rows) &&
            (!table || (table.rank == 2 && table.dtype == DType::kF32 && table.dim(1) <= shape.head_dim)),
        "rope_and_cache: shapes do not fit");
  kernels::RopeCacheParams p{};
  p.q = q.data;
  p.k = k.data;
  p.v = v.data;
  p.table = table.as<float>();
  p.positions = positions.as<int32_t>();
  p.slots = index.slots.as<int32_t>();
  p.k_cache = cache.k.data;
  p.v_cache = cache.v.data;
  p.rows = batch.rows;
  p.q_stride = q.row_stride;
  p.k_stride = k.row_stride;
  p.v_stride = v.row_stride;
  p.table_stride = table ? table.row_stride : 0;
  p.block_stride = cache.k.row_stride;
  p.n_heads = static_cast<int32_t>(shape.n_heads);
  p.n_kv_heads = static_cast<int32_t>(shape.n_kv_heads);
  p.head_dim = static_cast<int32_t>(shape.head_dim);
  p.half = table ? static_cast<int32_t>(table.dim(1) / 2) : 0;
  p.block_size = static_cast<int32_t>(cache.k.dim(2));
  p.type = type_of(q.dtype);
  return p;
}

void CudaBackend::rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                                 const BatchView& batch, int group, const AttentionShape& shape,
                                 const CacheLayer& cache) {
  SLUICE_CUDA(
      kernels::rope_and_cache(rope_params(q, k, v, table, batch.positions, batch, group, shape, cache), stream_));
}

void CudaBackend::rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                            const LengthRotation& rule) {
  const int64_t n = out.dim(0), half = out.dim(1) / 2;
  check(is_matrix(out, n, 2 * half) && out.dtype == DType::kF32 && is_vector(positions, DType::kI32, n) &&
            is_vector(lengths, DType::kI32, n) && is_matrix(rule.frequencies, 2, half),
        "rotations: shapes do not fit");
  kernels::RotationParams p{};
  p.out = out.as<float>();
  p.positions = positions.as<int32_t>();
  p.lengths = lengths.as<int32_t>();
  p.frequencies = rule.frequencies.as<float>();
  p.rows = n;
  p.out_stride = out.row_stride;
  p.frequency_stride = rule.frequencies.row_stride;
  p.original = rule.original;
  p.half = static_cast<int32_t>(half);
  p.scale = rule.scale;
  p.theta = rule.theta;
  p.factor = rule.factor;
  p.growth = rule.growth;
  SLUICE_CUDA(kernels::rotations(p, stream_));
}

kernels::AttentionParams CudaBackend::attention_params(const Tensor& out, const Tensor& q, const BatchView& batch,
                                                       int group, const AttentionShape& shape,
                                                       const CacheLayer& cache) {
  const CacheIndex& index = batch.cache[group];
  const Tensor& context = index.context ? index.context : batch.context;
  check_cache(cache, shape, q.dtype);
  check(is_matrix(q, batch.rows, shape.n_heads * shape.head_dim) &&
            is_matrix(out, batch.rows, shape.n_heads * shape.head_dim) && out.dtype == q.dtype &&
            batch.seqs <= kCudaMostSeqs && is_vector(batch.first_row, DType::kI32, batch.seqs + 1) &&
            is_vector(context, DType::kI32, batch.seqs) && index.block_table.rank == 2 &&
            index.block_table.dim(0) >= batch.seqs &&
            (!shape.sinks || is_vector(shape.sinks, DType::kF32, shape.n_heads)) &&
            (!shape.distance_bias || is_matrix(shape.distance_bias, shape.n_heads, shape.distance_bias.dim(1))),
        "attention: shapes do not fit");
  kernels::AttentionParams p{};
  p.out = out.data;
  p.q = q.data;
  p.k_cache = cache.k.data;
  p.v_cache = cache.v.data;
  p.first_row = batch.first_row.as<int32_t>();
  p.context = context.as<int32_t>();
  p.block_table = index.block_table.as<int32_t>();
  p.alibi_slopes = shape.alibi_slopes.as<float>();
  p.slopes_rounded = shape.alibi_rounded;
  p.all_keys = !shape.causal;
  if (shape.distance_bias) {
    p.distance_bias = shape.distance_bias.as<float>();
    p.bias_stride = shape.distance_bias.row_stride;
    p.reach = static_cast<int32_t>(shape.distance_bias.dim(1) / 2);
  }
  p.sinks = shape.sinks.as<float>();
  p.rows = batch.rows;
  p.seqs = batch.seqs;
  p.out_stride = out.row_stride;
  p.q_stride = q.row_stride;
  p.block_stride = cache.k.row_stride;
  p.block_table_stride = index.block_table.row_stride;
  p.n_heads = static_cast<int32_t>(shape.n_heads);
  p.n_kv_heads = static_cast<int32_t>(shape.n_kv_heads);
  p.head_dim = static_cast<int32_t>(shape.head_dim);
  p.block_size = static_cast<int32_t>(cache.k.dim(2));
  p.window = static_cast<int32_t>(shape.window);
  p.scale = shape.scale;
  p.soft_cap = shape.soft_cap;
  p.decode_only = batch.decode_only;
  p.deterministic = options_.deterministic;
  p.type = type_of(q.dtype);
  if (p.deterministic) return p;
  p.blocks = kernels::attention_blocks(multiprocessors_, shape.head_dim);
  p.workspace = attention_work_.reserve(kernels::attention_workspace_bytes(p.blocks, shape.head_dim), stream_);
  return p;
}

void CudaBackend::attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group,
                            const AttentionShape& shape, const CacheLayer& cache) {
  SLUICE_CUDA(kernels::attention(attention_params(out, q, batch, group, shape, cache), stream_));
}

void CudaBackend::attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                         const Tensor& positions, const BatchView& batch, int group, const AttentionShape& shape,
                         const CacheLayer& cache) {
  SLUICE_CUDA(kernels::rope_and_attention(rope_params(q, k, v, table, positions, batch, group, shape, cache),
                                          attention_params(out, q, batch, group, shape, cache), stream_));
}

void CudaBackend::gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) {
  check(is_matrix(out, out.dim(0), out.dim(1)) && is_matrix(gate_up, out.dim(0), 2 * out.dim(1)) &&
            out.dtype == gate_up.dtype,
        "gated_activation: shapes do not fit");
  kernels::GatedParams p{};
  p.out = out.data;
  p.in = gate_up.data;
  p.rows = out.dim(0);
  p.width = out.dim(1);
  p.out_stride = out.row_stride;
  p.in_stride = gate_up.row_stride;
  p.function = function_of(activation);
  p.type = type_of(out.dtype);
  SLUICE_CUDA(kernels::gated_activation(p, stream_));
}

void CudaBackend::activation(const Tensor& inout, Activation activation) {
  check(is_matrix(inout, inout.dim(0), inout.dim(1)), "activation: shapes do not fit");
  kernels::ActivationParams p{};
  p.inout = inout.data;
  p.rows = inout.dim(0);
  p.width = inout.dim(1);
  p.stride = inout.row_stride;
  p.function = function_of(activation);
  p.type = type_of(inout.dtype);
  SLUICE_CUDA(kernels::activation(p, stream_));
}

void CudaBackend::add(const Tensor& inout, const Tensor& other) {
  check(is_matrix(inout, inout.dim(0), inout.dim(1)) && is_matrix(other, inout.dim(0), inout.dim(1)) &&
            inout.dtype == other.dtype,
        "add: shapes do not fit");
  kernels::AddParams p{};
  p.inout = inout.data;
  p.other = other.data;
  p.rows = inout.dim(0);
  p.width = inout.dim(1);
  p.stride = inout.row_stride;
  p.other_stride = other.row_stride;
  p.type = type_of(inout.dtype);
  SLUICE_CUDA(kernels::add(p, stream_));
}

void CudaBackend::scale(const Tensor& inout, float factor) {
  check(is_matrix(inout, inout.dim(0), inout.dim(1)), "scale: shapes do not fit");
  SLUICE_CUDA(kernels::scale(
      {inout.data, inout.dim(0), inout.dim(1), inout.row_stride, factor, 0.0f, type_of(inout.dtype)}, stream_));
}

void CudaBackend::soft_cap(const Tensor& inout, float cap) {
  check(is_matrix(inout, inout.dim(0), inout.dim(1)) && cap > 0, "soft_cap: shapes do not fit");
  SLUICE_CUDA(kernels::scale(
      {inout.data, inout.dim(0), inout.dim(1), inout.row_stride, 1.0f, cap, type_of(inout.dtype)}, stream_));
}

void CudaBackend::head_norm(const Tensor& inout, const Tensor& weight, float eps) {
  const int64_t width = weight.dim(0);
  check(is_matrix(inout, inout.dim(0), inout.dim(1)) && is_vector(weight, DType::kF32, width) &&
            inout.dim(1) % width == 0,
        "head_norm: expected whole heads");
  SLUICE_CUDA(kernels::head_norm({inout.data, weight.as<float>(), inout.dim(0), inout.dim(1) / width, width,
                                  inout.row_stride, eps, type_of(inout.dtype)},
                                 stream_));
}

void CudaBackend::add_bias(const Tensor& inout, const Tensor& bias) {
  check(is_matrix(inout, inout.dim(0), inout.dim(1)) && is_vector(bias, DType::kF32, inout.dim(1)),
        "add_bias: shapes do not fit");
  kernels::AddParams p{};
  p.inout = inout.data;
  p.bias = bias.as<float>();
  p.rows = inout.dim(0);
  p.width = inout.dim(1);
  p.stride = inout.row_stride;
  p.type = type_of(inout.dtype);
  SLUICE_CUDA(kernels::add(p, stream_));
}

void CudaBackend::gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) {
  check(out.rank == 2 && x.rank == 2 && out.dtype == x.dtype && out.dim(1) == x.dim(1) &&
            is_vector(rows, DType::kI32, out.dim(0)),
        "gather_rows: shapes do not fit");
  const auto element = static_cast<int64_t>(dtype_bytes(x.dtype));
  kernels::GatherParams p{};
  p.out = out.data;
  p.x = x.data;
  p.rows = rows.as<int32_t>();
  p.n = out.dim(0);
  p.row_bytes = x.dim(1) * element;
  p.out_stride_bytes = out.row_stride * element;
  p.x_stride_bytes = x.row_stride * element;
  SLUICE_CUDA(kernels::gather_rows(p, stream_));
}

void CudaBackend::copy_blocks(const Tensor& cache, const Tensor& pairs) {
  check(pairs.rank == 2 && pairs.dtype == DType::kI32 && pairs.dim(1) == 2 && pairs.contiguous(),
        "copy_blocks: expected pairs of block ids");
  const auto element = static_cast<int64_t>(dtype_bytes(cache.dtype));
  kernels::CopyBlocksParams p{};
  p.cache = cache.data;
  p.pairs = pairs.as<int32_t>();
  p.n = pairs.dim(0);
  p.block_bytes = cache.row_elements() * element;
  p.stride_bytes = cache.row_stride * element;
  SLUICE_CUDA(kernels::copy_blocks(p, stream_));
}

}  // namespace sluice::cuda

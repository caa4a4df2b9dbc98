// SPDX-License-Identifier: Apache-2.0
#include "model/decoder.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "base/error.h"

namespace sluice {

void describe_decoder(const DecoderSizes& sizes, const std::vector<TensorSpec>& table, ModelInfo& info) {
  info.vocab = sizes.vocab, info.max_positions = sizes.max_positions, info.n_layers = sizes.n_layers;
  info.d_model = sizes.d_model, info.n_heads = sizes.n_heads, info.n_kv_heads = sizes.n_kv_heads;
  info.head_dim = sizes.head_dim, info.d_ff = sizes.d_ff;
  count_parameters(table, info);
}

int64_t even_head_dim(const Config& config, const std::string& key, int64_t d_model, int64_t n_heads) {
  if (d_model % n_heads != 0) config.refuse(key, fmt::format("a multiple of the {} heads", n_heads));
  return d_model / n_heads;
}

int64_t read_size(const Config& config, std::initializer_list<const char*> keys, int64_t fallback, int64_t high) {
  for (const char* key : keys) {
    if (config.contains(key)) return config.integer(key, fallback, 1, high);
  }
  return fallback;
}

void RopeTable::allocate(Backend& backend, int64_t n, int64_t max_rows) {
  if (config.varies()) {
    std::vector<float> frequencies = rope_frequencies(config);
    const auto beyond = rope_frequencies(config, static_cast<int64_t>(config.original) + 1);
    frequencies.insert(frequencies.end(), beyond.begin(), beyond.end());
    memory = backend.allocate(frequencies.size() * sizeof(float));
    backend.copy_in(memory.view(DType::kF32, {2, config.rotary / 2}), frequencies.data());
    std::vector<int32_t> rows(static_cast<size_t>(max_rows));
    std::iota(rows.begin(), rows.end(), 0);
    order = backend.allocate(rows.size() * sizeof(int32_t));
    backend.copy_in(order.view(DType::kI32, {max_rows}), rows.data());
    return;
  }
  positions = n;
  memory = backend.allocate(bytes(n));
  backend.copy_in(view(), rope_table(config, n).data());
}

void RopeTable::take(Arena& arena, int64_t rows) {
  if (config.varies()) step = arena.take(DType::kF32, {rows, config.rotary});
}

RopeView RopeTable::begin(Backend& backend, const BatchView& batch) const {
  if (!config.varies()) return view();
  LengthRotation rule;
  rule.frequencies = memory.view(DType::kF32, {2, config.rotary / 2});
  rule.original = static_cast<int64_t>(config.original);
  rule.scale = static_cast<float>(config.scale);
  if (config.kind == RopeConfig::Kind::kDynamic) {
    rule.theta = static_cast<float>(config.theta);
    rule.factor = static_cast<float>(config.factor);
    rule.growth = static_cast<float>(config.rotary) / static_cast<float>(config.rotary - 2);
  }
  backend.rotations(step, batch.positions, batch.lengths, rule);
  return {step, order.view(DType::kI32, {batch.rows})};
}

DecoderModel::DecoderModel(LoadContext& context, const DecoderSizes& sizes)
    : sizes_(sizes),
      backend_(context.backend),
      groups_(context.groups),
      info_(std::move(context.info)),
      partition_({sizes.n_heads, sizes.n_kv_heads, sizes.head_dim, sizes.d_ff, sizes.vocab}, groups_.tp_rank(),
                 groups_.tp_size()),
      stored_(context.dtype),
      activation_(backend_.activation_dtype(scheme_of(context.dtype))),
      cache_dtype_(backend_.cache_dtype(scheme_of(context.dtype))),
      range_(stage_layers(sizes.n_layers, groups_.stage(), groups_.stages())) {
  if (sizes_.windows.empty()) sizes_.windows.assign(static_cast<size_t>(sizes.n_layers), 0);
  const size_t layer_bytes = KvCache::bytes_per_token(partition_.kv_heads.padded, sizes.head_dim, cache_dtype_);
  cache_layout_ = plan_cache(sizes_.windows, range_, layer_bytes);
  info_.kv_bytes_per_token = layer_bytes * static_cast<size_t>(range_.count);
}

TiedNames DecoderModel::tie_head(const LoadContext& context, const std::string& embed, const std::string& head) {
  TiedNames names = resolve_tie(context, embed, head, sizes_.tied);
  if (sizes_.tied && !names.tied) info_.parameters += sizes_.vocab * sizes_.d_model;
  sizes_.tied = names.tied;
  return names;
}

std::vector<TensorSpec> DecoderModel::prepare(const LoadContext& context, std::vector<TensorSpec> table,
                                              const std::string& embed, const TiedNames& names,
                                              std::vector<std::string> ignored) const {
  for (TensorSpec& spec : table) {
    if (spec.name == embed) spec.name = names.embed;
  }
  if (names.tied) ignored.emplace_back("lm_head.weight");
  warn_unused(context, table, ignored);
  return table;
}

void DecoderModel::load_ends(ModuleLoader& load, const TiedNames& names) {
  if (groups_.first_stage()) load.embedding(names.embed, embedding_);
  if (groups_.last_stage()) load.head(names.head, head_);
}

DecoderModel::Activations DecoderModel::take(Arena& arena, int64_t rows, int64_t logits) {
  const int64_t h = sizes_.d_model, f = partition_.d_ff.padded;
  const int64_t q = partition_.heads.padded * sizes_.head_dim, kv = partition_.kv_heads.padded * sizes_.head_dim;
  Activations a;
  a.x = arena.take(activation_, {rows, h});
  a.h = arena.take(activation_, {rows, h});
  a.out = arena.take(activation_, {rows, h});
  take_more(arena, rows, logits);
  const size_t shared = arena.mark();
  a.qkv = arena.take(activation_, {rows, q + 2 * kv});
  a.attended = arena.take(activation_, {rows, q});
  arena.release(shared);
  take_ff(arena, rows);
  if (sizes_.ff_products > 0) a.up = arena.take(activation_, {rows, sizes_.ff_products * f});
  if (sizes_.ff_products > 0) a.ff = sizes_.ff_products == 1 ? a.up : arena.take(activation_, {rows, f});
  arena.release(shared);
  a.last = arena.take(activation_, {logits, h});
  a.last_norm = arena.take(activation_, {logits, h});
  return a;
}

size_t DecoderModel::scratch_bytes(const RunLimits& limits) {
  Arena dry;
  take(dry, limits.max_rows, limits.max_logits);
  if (groups_.last_stage()) head_.measure(groups_, dry, limits.max_logits);
  return dry.peak();
}

size_t DecoderModel::step_bytes(const RunLimits& limits) {
  return scratch_bytes(limits) + table_bytes(limits.max_context);
}

void DecoderModel::allocate(const RunLimits& limits) {
  require_context(limits, sizes_.max_positions);
  const size_t scratch = scratch_bytes(limits);
  require_cache_memory(backend_, cache_layout_.groups, limits, scratch, table_bytes(limits.max_context));

  limits_ = limits;
  arena_ = Arena(backend_.allocate(scratch));
  cache_.allocate(backend_, cache_layout_.layer_groups, limits, partition_.kv_heads.padded, sizes_.head_dim,
                  cache_dtype_);
  allocate_tables(limits.max_context);
  if (groups_.last_stage()) head_.allocate(backend_, groups_, limits.max_logits);
}

DecoderModel::Activations DecoderModel::begin(const BatchView& batch) {
  arena_.release(0);
  return take(arena_, batch.rows, batch.logits);
}

bool DecoderModel::receive(const Activations& a) const {
  if (groups_.first_stage()) return false;
  groups_.pp->recv(a.x, groups_.stage() - 1);
  return true;
}

void DecoderModel::norm(const Norm& norm, Activations& a) const {
  norm(backend_, a.h, a.pending ? a.pending : a.x, a.pending ? a.x : Tensor{});
  a.pending = {};
}

AttentionShape DecoderModel::attention_shape() const {
  AttentionShape shape;
  shape.n_heads = partition_.heads.padded;
  shape.n_kv_heads = partition_.kv_heads.padded;
  shape.head_dim = sizes_.head_dim;
  shape.scale = 1.0f / std::sqrt(static_cast<float>(sizes_.head_dim));
  return shape;
}

void DecoderModel::attend(const Activations& a, const BatchView& batch, size_t layer, AttentionShape shape,
                          const RopeView& rope) {
  const int group = cache_layout_.layer_groups[layer];
  const int64_t q = shape.n_heads * shape.head_dim, kv = shape.n_kv_heads * shape.head_dim;
  const CacheLayer& cache = cache_.layer(layer);
  shape.window = cache_layout_.groups[static_cast<size_t>(group)].window;
  backend_.attend(a.attended, a.qkv.columns(0, q), a.qkv.columns(q, kv), a.qkv.columns(q + kv, kv), rope.table,
                  rope.rows ? rope.rows : batch.positions, batch, group, shape, cache);
}

bool DecoderModel::finish(Activations& a, const BatchView& batch) const {
  if (a.pending) backend_.add(a.x, a.pending);
  a.pending = {};
  if (!groups_.last_stage()) {
    groups_.pp->send(a.x, groups_.stage() + 1);
    return false;
  }
  if (batch.logits == 0) return false;
  backend_.gather_rows(a.last, a.x, batch.logits_rows);
  return true;
}

Tensor DecoderModel::no_logits() const {
  return groups_.last_stage() ? Tensor(nullptr, DType::kF32, {0, sizes_.vocab}) : Tensor{};
}

}  // namespace sluice

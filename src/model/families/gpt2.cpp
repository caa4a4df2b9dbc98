// SPDX-License-Identifier: Apache-2.0
// GPT-2. x = token + position; x += o(attention(ln_1(x))); x += down(act(up(ln_2(x)))); logits = head(ln_f(x)). Linear
// layers are stored [in, out] with biases, q, k and v as blocks of one matrix; the head is the embedding.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "model/family.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "weights/load.h"

namespace sluice {
namespace {
constexpr int64_t kMany = int64_t{1} << 31;

struct Gpt2Config {
  int64_t vocab, d_model, d_ff, n_layers, n_heads, head_dim, max_positions;
  float eps;
  Activation activation;
  bool scaled, scaled_by_layer;  // scores / sqrt(head_dim), and / (layer + 1)
  bool tied;
};

// Configs write GPT-2's own name or the common one.
int64_t read_size(const Config& config, const char* own, const char* common, int64_t fallback, int64_t high) {
  const bool other = !config.contains(own) && config.contains(common);
  return config.integer(other ? common : own, fallback, 1, high);
}

Gpt2Config read_gpt2(const Config& config) {
  Gpt2Config c{};
  c.vocab = config.integer("vocab_size", 50257, 1, kMany);
  c.d_model = read_size(config, "n_embd", "hidden_size", 768, kMany);
  c.n_layers = read_size(config, "n_layer", "num_hidden_layers", 12, 10000);
  c.n_heads = read_size(config, "n_head", "num_attention_heads", 12, 65536);
  c.max_positions = read_size(config, "n_positions", "max_position_embeddings", 1024, kMany);
  c.d_ff = config.integer("n_inner", 4 * c.d_model, 1, kMany);
  if (c.d_model % c.n_heads != 0)
    config.refuse(config.contains("n_embd") ? "n_embd" : "hidden_size",
                  fmt::format("a multiple of the {} heads", c.n_heads));
  c.head_dim = c.d_model / c.n_heads;
  c.eps = static_cast<float>(config.number("layer_norm_epsilon", 1e-5));
  c.activation = read_activation(config, "activation_function", "gelu_new");
  c.scaled = config.flag("scale_attn_weights", true);
  c.scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", false);
  if (config.flag("add_cross_attention", false)) config.refuse("add_cross_attention", "false, a decoder alone");
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kTokens = "transformer.wte.weight", kPositions = "transformer.wpe.weight", kHead = "lm_head.weight";
const std::string kNorm = "transformer.ln_f.weight", kNormBias = "transformer.ln_f.bias";
std::string layer_name(int64_t layer, const char* part) { return fmt::format("transformer.h.{}.{}", layer, part); }

// Without the head where it is the embedding. q, k and v are columns of attn.c_attn.
std::vector<TensorSpec> gpt2_tensors(const Gpt2Config& c) {
  const int64_t h = c.d_model, f = c.d_ff;
  std::vector<TensorSpec> out = {{kTokens, {c.vocab, h}, Split::kVocab, Split::kWhole, Place::kEmbedding},
                                 {kPositions, {c.max_positions, h}, Split::kWhole, Split::kWhole, Place::kEmbedding}};
  for (int64_t i = 0; i < c.n_layers; ++i) {
    const auto add = [&](const char* part, std::vector<int64_t> shape, Split rows, Split cols = Split::kWhole,
                         Init init = Init::kUniform) {
      const bool matrix = shape.size() == 2;
      out.push_back(
          {layer_name(i, part), std::move(shape), rows, cols, Place::kLayer, i, init, {.transposed = matrix}});
    };
    const auto norm = [&](const char* weight, const char* bias) {
      add(weight, {h}, Split::kWhole, Split::kWhole, Init::kOne);
      add(bias, {h}, Split::kWhole);
    };
    norm("ln_1.weight", "ln_1.bias");
    const char* const blocks[3][2] = {
        {"attn.q.weight", "attn.q.bias"}, {"attn.k.weight", "attn.k.bias"}, {"attn.v.weight", "attn.v.bias"}};
    for (int64_t b = 0; b < 3; ++b) {
      add(blocks[b][0], {h, h}, Split::kQueryHeads);
      out.back().stored = {true, layer_name(i, "attn.c_attn.weight"), b * h, 3 * h};
      add(blocks[b][1], {h}, Split::kQueryHeads);
      out.back().stored = {false, layer_name(i, "attn.c_attn.bias"), b * h, 3 * h};
    }
    add("attn.c_proj.weight", {h, h}, Split::kWhole, Split::kQueryHeads);
    add("attn.c_proj.bias", {h}, Split::kWhole);
    norm("ln_2.weight", "ln_2.bias");
    add("mlp.c_fc.weight", {f, h}, Split::kFeedForward);
    add("mlp.c_fc.bias", {f}, Split::kFeedForward);
    add("mlp.c_proj.weight", {h, f}, Split::kWhole, Split::kFeedForward);
    add("mlp.c_proj.bias", {h}, Split::kWhole);
  }
  out.push_back({kNorm, {h}, Split::kWhole, Split::kWhole, Place::kHead, -1, Init::kOne});
  out.push_back({kNormBias, {h}, Split::kWhole, Split::kWhole, Place::kHead});
  if (!c.tied) out.push_back({kHead, {c.vocab, h}, Split::kVocab, Split::kWhole, Place::kHead});
  return out;
}

void describe_gpt2(const Config& config, ModelInfo& info) {
  const Gpt2Config c = read_gpt2(config);
  info.vocab = c.vocab, info.max_positions = c.max_positions, info.n_layers = c.n_layers, info.d_model = c.d_model;
  info.n_heads = c.n_heads, info.n_kv_heads = c.n_heads, info.head_dim = c.head_dim, info.d_ff = c.d_ff;
  count_parameters(gpt2_tensors(c), info);
}

struct Norm {
  Buffer weight, bias;  // f32 [H]
};

class Gpt2 final : public Model {
 public:
  explicit Gpt2(LoadContext& context);
  const ModelInfo& info() const override { return info_; }
  const std::vector<CacheGroupSpec>& cache_groups() const override { return cache_layout_.groups; }
  void allocate(const RunLimits& limits) override;
  Tensor forward(const BatchView& batch) override;
  void copy_blocks(int group, const Tensor& pairs) override { cache_.copy_blocks(backend_, group, pairs); }

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };
  // Widths of one step on this rank; memory of disjoint lifetimes is shared.
  struct Activations {
    Tensor x, h, out;        // [T, H]: residual stream, normed input, output of a block
    Tensor qkv, attended;    // [T, 3 * heads * hd], [T, heads * hd]
    Tensor ff;               // [T, F]
    Tensor last, last_norm;  // [logits, H]
  };

  void load(LoadContext& context);
  Activations take(Arena& arena, int64_t rows, int64_t logits) const;
  void apply(const Norm& norm, const Tensor& out, const Tensor& x, const Tensor& residual) const;

  Gpt2Config c_;
  Backend& backend_;
  Groups& groups_;
  ModelInfo info_;
  Partition partition_;
  DType stored_, activation_, cache_dtype_;
  LayerRange range_;
  CacheLayout cache_layout_;
  VocabEmbedding embedding_;
  Buffer positions_;           // [positions, H] in stored_; on the first stage
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
  VocabLinear head_;
  KvCache cache_;
  Arena arena_;
};

Gpt2::Gpt2(LoadContext& context)
    : c_(read_gpt2(context.config)),
      backend_(context.backend),
      groups_(context.groups),
      info_(std::move(context.info)),
      partition_({c_.n_heads, c_.n_heads, c_.head_dim, c_.d_ff, c_.vocab}, groups_.tp_rank(), groups_.tp_size()),
      stored_(context.dtype),
      activation_(backend_.activation_dtype(scheme_of(context.dtype))),
      cache_dtype_(backend_.cache_dtype(scheme_of(context.dtype))) {
  range_ = stage_layers(c_.n_layers, groups_.stage(), groups_.stages());
  const size_t layer_bytes = KvCache::bytes_per_token(partition_.kv_heads.padded, c_.head_dim, cache_dtype_);
  cache_layout_ = plan_cache(std::vector<int64_t>(static_cast<size_t>(c_.n_layers), 0), range_, layer_bytes);
  layers_.resize(static_cast<size_t>(range_.count));
  info_.kv_bytes_per_token = layer_bytes * layers_.size();
  load(context);
}

void Gpt2::load(LoadContext& context) {
  const TiedNames names = resolve_tie(context, kTokens, kHead, c_.tied);
  if (c_.tied && !names.tied) info_.parameters += c_.vocab * c_.d_model;
  c_.tied = names.tied;
  std::vector<TensorSpec> table = gpt2_tensors(c_);
  table.front().name = names.embed;
  // Causal masks that old files carry.
  warn_unused(context, table, {".attn.bias", ".attn.masked_bias", c_.tied ? kHead : ".attn.bias"});

  WeightLoader loader(backend_, context.checkpoint, table, partition_, context.dtype);
  if (groups_.first_stage()) {
    loader.table(names.embed, embedding_.table);
    loader.table(kPositions, positions_);
    embedding_.dtype = context.dtype;
    embedding_.first = partition_.vocab.begin;
    embedding_.local = partition_.vocab.padded;
    embedding_.width = c_.d_model;
  }
  const bool adds_bias = groups_.tp_rank() == 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const auto of_layer = [&](std::initializer_list<const char*> parts) {
      std::vector<std::string> out;
      for (const char* part : parts) out.push_back(layer_name(range_.begin + static_cast<int64_t>(i), part));
      return out;
    };
    loader.vector(of_layer({"ln_1.weight"}), layer.attention_norm.weight);
    loader.vector(of_layer({"ln_1.bias"}), layer.attention_norm.bias);
    loader.matrix(of_layer({"attn.q.weight", "attn.k.weight", "attn.v.weight"}), layer.qkv.weight);
    loader.vector(of_layer({"attn.q.bias", "attn.k.bias", "attn.v.bias"}), layer.qkv.bias);
    loader.matrix(of_layer({"attn.c_proj.weight"}), layer.o.weight);
    loader.vector(of_layer({"ln_2.weight"}), layer.mlp_norm.weight);
    loader.vector(of_layer({"ln_2.bias"}), layer.mlp_norm.bias);
    loader.matrix(of_layer({"mlp.c_fc.weight"}), layer.up.weight);
    loader.vector(of_layer({"mlp.c_fc.bias"}), layer.up.bias);
    loader.matrix(of_layer({"mlp.c_proj.weight"}), layer.down.weight);
    if (adds_bias) loader.vector(of_layer({"attn.c_proj.bias"}), layer.o.bias);
    if (adds_bias) loader.vector(of_layer({"mlp.c_proj.bias"}), layer.down.bias);
  }
  if (groups_.last_stage()) {
    loader.vector({&kNorm, 1}, final_norm_.weight);
    loader.vector({&kNormBias, 1}, final_norm_.bias);
    loader.matrix({&names.head, 1}, head_.weight);
    head_.vocab = c_.vocab;
  }
  loader.run(context.staging);
  info_.weight_bytes = loader.weight_bytes();
  info_.read_bytes = head_.weight ? head_.weight->bytes() : 0;
  for (const Layer& layer : layers_) {
    info_.read_bytes +=
        layer.qkv.weight->bytes() + layer.o.weight->bytes() + layer.up.weight->bytes() + layer.down.weight->bytes();
  }
}

Gpt2::Activations Gpt2::take(Arena& arena, int64_t rows, int64_t logits) const {
  const int64_t h = c_.d_model, q = partition_.heads.padded * c_.head_dim;
  Activations a;
  a.x = arena.take(activation_, {rows, h});
  a.h = arena.take(activation_, {rows, h});
  a.out = arena.take(activation_, {rows, h});
  const size_t shared = arena.mark();
  a.qkv = arena.take(activation_, {rows, 3 * q});
  a.attended = arena.take(activation_, {rows, q});
  arena.release(shared);
  a.ff = arena.take(activation_, {rows, partition_.d_ff.padded});
  arena.release(shared);
  a.last = arena.take(activation_, {logits, h});
  a.last_norm = arena.take(activation_, {logits, h});
  return a;
}

void Gpt2::allocate(const RunLimits& limits) {
  require_context(limits, c_.max_positions);
  Arena dry;
  take(dry, limits.max_rows, limits.max_logits);
  if (groups_.last_stage()) head_.measure(groups_, dry, limits.max_logits);
  require_cache_memory(backend_, cache_layout_.groups, limits, dry.peak(), 0);

  arena_ = Arena(backend_.allocate(dry.peak()));
  cache_.allocate(backend_, cache_layout_.layer_groups, limits, partition_.kv_heads.padded, c_.head_dim, cache_dtype_);
  if (groups_.last_stage()) head_.allocate(backend_, groups_, limits.max_logits);
}

void Gpt2::apply(const Norm& norm, const Tensor& out, const Tensor& x, const Tensor& residual) const {
  backend_.layer_norm(out, x, residual, norm.weight.view(DType::kF32, {c_.d_model}),
                      norm.bias.view(DType::kF32, {c_.d_model}), c_.eps);
}

Tensor Gpt2::forward(const BatchView& batch) {
  arena_.release(0);
  const Activations a = take(arena_, batch.rows, batch.logits);
  const int64_t q = partition_.heads.padded * c_.head_dim;
  AttentionShape shape;
  shape.n_heads = shape.n_kv_heads = partition_.heads.padded;
  shape.head_dim = c_.head_dim;

  Tensor pending;  // not yet part of x: positions, or the output of the block before
  if (groups_.first_stage()) {
    embedding_(backend_, groups_, a.x, batch.tokens);
    backend_.embed(a.out, positions_.view(stored_, {c_.max_positions, c_.d_model}), batch.positions, 0);
    pending = a.out;
  } else {
    groups_.pp->recv(a.x, groups_.stage() - 1);
  }
  const auto add_and_norm = [&](const Norm& norm) {
    apply(norm, a.h, pending ? pending : a.x, pending ? a.x : Tensor{});
    pending = a.out;
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const int group = cache_layout_.layer_groups[i];
    const CacheLayer& cache = cache_.layer(i);
    const float depth = c_.scaled_by_layer ? static_cast<float>(range_.begin + static_cast<int64_t>(i) + 1) : 1.0f;
    shape.scale = 1.0f / (depth * (c_.scaled ? std::sqrt(static_cast<float>(c_.head_dim)) : 1.0f));
    add_and_norm(layer.attention_norm);
    layer.qkv(backend_, a.qkv, a.h);
    const Tensor query = a.qkv.columns(0, q);
    backend_.rope_and_cache(query, a.qkv.columns(q, q), a.qkv.columns(2 * q, q), {}, batch, group, shape, cache);
    backend_.attention(a.attended, query, batch, group, shape, cache);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(groups_, a.out);
    add_and_norm(layer.mlp_norm);
    layer.up(backend_, a.ff, a.h);
    backend_.activation(a.ff, c_.activation);
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(groups_, a.out);
  }
  backend_.add(a.x, a.out);
  if (!groups_.last_stage()) {
    groups_.pp->send(a.x, groups_.stage() + 1);
    return {};
  }
  if (batch.logits == 0) return Tensor(nullptr, DType::kF32, {0, c_.vocab});
  backend_.gather_rows(a.last, a.x, batch.logits_rows);
  apply(final_norm_, a.last_norm, a.last, {});
  return head_(backend_, groups_, arena_, a.last_norm);
}

const RegisterFamily kRegistered({"gpt2",
                                  {"GPT2LMHeadModel", "GPT2Model"},
                                  "transformer.",
                                  describe_gpt2,
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Gpt2>(context);
                                  }});
}  // namespace
}  // namespace sluice

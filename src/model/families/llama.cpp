// SPDX-License-Identifier: Apache-2.0
// Llama 1, 2 and 3, and the models that differ from it in numbers only: Mistral (sliding window) and Qwen2 (biases of
// q, k and v). x += o(attention(norm(x))); x += down(act(gate(norm(x))) * up(norm(x))); logits = head(norm(x)).
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "model/family.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/rope.h"
#include "weights/load.h"

namespace sluice {
namespace {
constexpr int64_t kMany = int64_t{1} << 31;

struct LlamaConfig {
  int64_t vocab, d_model, d_ff, n_layers, n_heads, n_kv_heads, head_dim, max_positions;
  float eps;
  Activation activation;
  RopeConfig rope;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, tied = false;
  std::vector<int64_t> windows;  // keys that a layer sees; 0: all
};

// Defaults of the reference's config classes; published configs omit keys that equal them.
struct Defaults {
  int64_t vocab, d_ff, n_kv_heads, max_positions;  // n_kv_heads 0: as many as query heads
};
constexpr Defaults kLlama{32000, 11008, 0, 2048}, kMistral{32000, 14336, 8, 131072}, kQwen2{151936, 22016, 32, 32768};

// Sliding windows: Mistral on every layer, Qwen2 on request from max_window_layers on, or as layer_types says.
std::vector<int64_t> read_windows(const Config& config, bool mistral, int64_t n_layers) {
  std::vector<int64_t> out(static_cast<size_t>(n_layers), 0);
  const bool on = mistral || config.flag("use_sliding_window", false);
  if (!on || (config.contains("sliding_window") && !config.has("sliding_window"))) return out;
  const int64_t window = config.integer("sliding_window", 4096, 1, kMany);
  const std::vector<std::string> types = config.texts("layer_types");
  if (!types.empty() && static_cast<int64_t>(types.size()) != n_layers)
    config.refuse("layer_types", fmt::format("{} entries, one per layer", n_layers));
  const int64_t first = mistral ? 0 : config.integer("max_window_layers", 28, 0, kMany);
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string type =
        types.empty() ? (i >= first ? "sliding_attention" : "full_attention") : types[static_cast<size_t>(i)];
    if (type != "sliding_attention" && type != "full_attention")
      config.refuse("layer_types", "full_attention or sliding_attention");
    if (type == "sliding_attention") out[static_cast<size_t>(i)] = window;
  }
  return out;
}

LlamaConfig read_llama(const Config& config) {
  const std::string architecture = config.texts("architectures").front();
  const bool mistral = architecture.starts_with("Mistral"), qwen2 = architecture.starts_with("Qwen2");
  const Defaults& defaults = mistral ? kMistral : qwen2 ? kQwen2 : kLlama;
  LlamaConfig c{};
  c.vocab = config.integer("vocab_size", defaults.vocab, 1, kMany);
  c.d_model = config.integer("hidden_size", 4096, 1, kMany);
  c.d_ff = config.integer("intermediate_size", defaults.d_ff, 1, kMany);
  c.n_layers = config.integer("num_hidden_layers", 32, 1, 10000);
  c.n_heads = config.integer("num_attention_heads", 32, 1, 65536);
  const bool own_default = !config.contains("num_key_value_heads") && defaults.n_kv_heads > 0;
  c.n_kv_heads = config.integer("num_key_value_heads", own_default ? defaults.n_kv_heads : c.n_heads, 1, 65536);
  if (c.n_heads % c.n_kv_heads != 0)
    config.refuse("num_key_value_heads",
                  fmt::format("a divisor of num_attention_heads ({}), not {}", c.n_heads, c.n_kv_heads));
  if (!config.has("head_dim") && c.d_model % c.n_heads != 0)
    config.refuse("hidden_size",
                  fmt::format("a multiple of num_attention_heads ({}), or head_dim to be given", c.n_heads));
  c.head_dim = config.integer("head_dim", c.d_model / c.n_heads, 2, 65536);
  c.max_positions = config.integer("max_position_embeddings", defaults.max_positions, 1, kMany);
  c.eps = static_cast<float>(config.number("rms_norm_eps", 1e-6));
  c.activation = read_activation(config, "hidden_act", "silu");
  if (config.number("partial_rotary_factor", 1.0) != 1.0)
    config.refuse("partial_rotary_factor", "1, rotation of whole heads");
  c.rope = read_rope(config, c.head_dim, 10000.0);
  c.tied = config.flag("tie_word_embeddings", false);
  if (qwen2) {
    c.qkv_bias = true;
  } else if (!mistral) {
    c.qkv_bias = c.o_bias = config.flag("attention_bias", false);
    c.mlp_bias = config.flag("mlp_bias", false);
  }
  c.windows = mistral || qwen2 ? read_windows(config, mistral, c.n_layers)
                               : std::vector<int64_t>(static_cast<size_t>(c.n_layers), 0);
  return c;
}

const std::string kEmbed = "model.embed_tokens.weight", kNorm = "model.norm.weight", kHead = "lm_head.weight";
std::string layer_name(int64_t layer, const char* part) { return fmt::format("model.layers.{}.{}", layer, part); }

// Without the head where it is the embedding.
std::vector<TensorSpec> llama_tensors(const LlamaConfig& c) {
  const int64_t q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim, h = c.d_model, f = c.d_ff;
  std::vector<TensorSpec> out = {{kEmbed, {c.vocab, h}, Split::kVocab, Split::kWhole, Place::kEmbedding}};
  for (int64_t i = 0; i < c.n_layers; ++i) {
    const auto add = [&](const char* part, std::vector<int64_t> shape, Split rows, Split cols,
                         Init init = Init::kUniform) {
      out.push_back({layer_name(i, part), std::move(shape), rows, cols, Place::kLayer, i, init});
    };
    add("input_layernorm.weight", {h}, Split::kWhole, Split::kWhole, Init::kOne);
    add("self_attn.q_proj.weight", {q, h}, Split::kQueryHeads, Split::kWhole);
    add("self_attn.k_proj.weight", {kv, h}, Split::kKvHeads, Split::kWhole);
    add("self_attn.v_proj.weight", {kv, h}, Split::kKvHeads, Split::kWhole);
    add("self_attn.o_proj.weight", {h, q}, Split::kWhole, Split::kQueryHeads);
    add("post_attention_layernorm.weight", {h}, Split::kWhole, Split::kWhole, Init::kOne);
    add("mlp.gate_proj.weight", {f, h}, Split::kFeedForward, Split::kWhole);
    add("mlp.up_proj.weight", {f, h}, Split::kFeedForward, Split::kWhole);
    add("mlp.down_proj.weight", {h, f}, Split::kWhole, Split::kFeedForward);
    if (c.qkv_bias) {
      add("self_attn.q_proj.bias", {q}, Split::kQueryHeads, Split::kWhole);
      add("self_attn.k_proj.bias", {kv}, Split::kKvHeads, Split::kWhole);
      add("self_attn.v_proj.bias", {kv}, Split::kKvHeads, Split::kWhole);
    }
    if (c.o_bias) add("self_attn.o_proj.bias", {h}, Split::kWhole, Split::kWhole);
    if (c.mlp_bias) {
      add("mlp.gate_proj.bias", {f}, Split::kFeedForward, Split::kWhole);
      add("mlp.up_proj.bias", {f}, Split::kFeedForward, Split::kWhole);
      add("mlp.down_proj.bias", {h}, Split::kWhole, Split::kWhole);
    }
  }
  out.push_back({kNorm, {h}, Split::kWhole, Split::kWhole, Place::kHead, -1, Init::kOne});
  if (!c.tied) out.push_back({kHead, {c.vocab, h}, Split::kVocab, Split::kWhole, Place::kHead});
  return out;
}

void describe_llama(const Config& config, ModelInfo& info) {
  const LlamaConfig c = read_llama(config);
  info.vocab = c.vocab, info.max_positions = c.max_positions, info.n_layers = c.n_layers, info.d_model = c.d_model;
  info.n_heads = c.n_heads, info.n_kv_heads = c.n_kv_heads, info.head_dim = c.head_dim, info.d_ff = c.d_ff;
  count_parameters(llama_tensors(c), info);
}

class Llama final : public Model {
 public:
  explicit Llama(LoadContext& context);
  const ModelInfo& info() const override { return info_; }
  const std::vector<CacheGroupSpec>& cache_groups() const override { return cache_layout_.groups; }
  void allocate(const RunLimits& limits) override;
  Tensor forward(const BatchView& batch) override;
  void copy_blocks(int group, const Tensor& pairs) override { cache_.copy_blocks(backend_, group, pairs); }

 private:
  struct Layer {
    Buffer attention_norm, mlp_norm;  // f32 [H]
    ColumnLinear qkv;                 // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear gate_up;  // rows: gate, then up
    RowLinear down;
  };
  // Widths of one step on this rank; memory of disjoint lifetimes is shared.
  struct Activations {
    Tensor x, h, out;        // [T, H]: residual stream, normed input, output of a block
    Tensor qkv, attended;    // [T, (heads + 2 kv heads) * hd], [T, heads * hd]
    Tensor gate_up, ff;      // [T, 2F], [T, F]
    Tensor last, last_norm;  // [logits, H]
  };

  void load(LoadContext& context);
  Activations take(Arena& arena, int64_t rows, int64_t logits) const;
  Tensor norm(const Buffer& weight) const { return weight.view(DType::kF32, {c_.d_model}); }

  LlamaConfig c_;
  Backend& backend_;
  Groups& groups_;
  ModelInfo info_;
  Partition partition_;
  DType activation_, cache_dtype_;
  LayerRange range_;
  CacheLayout cache_layout_;
  VocabEmbedding embedding_;
  std::vector<Layer> layers_;  // of this stage
  Buffer final_norm_;
  VocabLinear head_;
  KvCache cache_;
  Buffer rope_table_;  // f32 [positions, hd]
  int64_t positions_ = 0;
  Arena arena_;
};

Llama::Llama(LoadContext& context)
    : c_(read_llama(context.config)),
      backend_(context.backend),
      groups_(context.groups),
      info_(std::move(context.info)),
      partition_({c_.n_heads, c_.n_kv_heads, c_.head_dim, c_.d_ff, c_.vocab}, groups_.tp_rank(), groups_.tp_size()),
      activation_(backend_.activation_dtype(scheme_of(context.dtype))),
      cache_dtype_(backend_.cache_dtype(scheme_of(context.dtype))) {
  range_ = stage_layers(c_.n_layers, groups_.stage(), groups_.stages());
  const size_t layer_bytes = KvCache::bytes_per_token(partition_.kv_heads.padded, c_.head_dim, cache_dtype_);
  cache_layout_ = plan_cache(c_.windows, range_, layer_bytes);
  layers_.resize(static_cast<size_t>(range_.count));
  info_.kv_bytes_per_token = layer_bytes * layers_.size();
  load(context);
}

void Llama::load(LoadContext& context) {
  const TiedNames names = resolve_tie(context, kEmbed, kHead, c_.tied);
  if (c_.tied && !names.tied) info_.parameters += c_.vocab * c_.d_model;
  c_.tied = names.tied;
  std::vector<TensorSpec> table = llama_tensors(c_);
  table.front().name = names.embed;
  warn_unused(context, table, {".rotary_emb.inv_freq", c_.tied ? kHead : ".rotary_emb.inv_freq"});

  WeightLoader loader(backend_, context.checkpoint, table, partition_, context.dtype);
  if (groups_.first_stage()) {
    loader.table(names.embed, embedding_.table);
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
    loader.vector(of_layer({"input_layernorm.weight"}), layer.attention_norm);
    loader.matrix(of_layer({"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}),
                  layer.qkv.weight);
    loader.matrix(of_layer({"self_attn.o_proj.weight"}), layer.o.weight);
    loader.vector(of_layer({"post_attention_layernorm.weight"}), layer.mlp_norm);
    loader.matrix(of_layer({"mlp.gate_proj.weight", "mlp.up_proj.weight"}), layer.gate_up.weight);
    loader.matrix(of_layer({"mlp.down_proj.weight"}), layer.down.weight);
    if (c_.qkv_bias)
      loader.vector(of_layer({"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}),
                    layer.qkv.bias);
    if (c_.o_bias && adds_bias) loader.vector(of_layer({"self_attn.o_proj.bias"}), layer.o.bias);
    if (c_.mlp_bias) loader.vector(of_layer({"mlp.gate_proj.bias", "mlp.up_proj.bias"}), layer.gate_up.bias);
    if (c_.mlp_bias && adds_bias) loader.vector(of_layer({"mlp.down_proj.bias"}), layer.down.bias);
  }
  if (groups_.last_stage()) {
    loader.vector({&kNorm, 1}, final_norm_);
    loader.matrix({&names.head, 1}, head_.weight);
    head_.vocab = c_.vocab;
  }
  loader.run(context.staging);
  info_.weight_bytes = loader.weight_bytes();
  info_.read_bytes = head_.weight ? head_.weight->bytes() : 0;
  for (const Layer& layer : layers_) {
    info_.read_bytes += layer.qkv.weight->bytes() + layer.o.weight->bytes() + layer.gate_up.weight->bytes() +
                        layer.down.weight->bytes();
  }
}

Llama::Activations Llama::take(Arena& arena, int64_t rows, int64_t logits) const {
  const int64_t h = c_.d_model, f = partition_.d_ff.padded;
  const int64_t q = partition_.heads.padded * c_.head_dim, kv = partition_.kv_heads.padded * c_.head_dim;
  Activations a;
  a.x = arena.take(activation_, {rows, h});
  a.h = arena.take(activation_, {rows, h});
  a.out = arena.take(activation_, {rows, h});
  const size_t shared = arena.mark();
  a.qkv = arena.take(activation_, {rows, q + 2 * kv});
  a.attended = arena.take(activation_, {rows, q});
  arena.release(shared);
  a.gate_up = arena.take(activation_, {rows, 2 * f});
  a.ff = arena.take(activation_, {rows, f});
  arena.release(shared);
  a.last = arena.take(activation_, {logits, h});
  a.last_norm = arena.take(activation_, {logits, h});
  return a;
}

void Llama::allocate(const RunLimits& limits) {
  require_context(limits, c_.max_positions);
  Arena dry;
  take(dry, limits.max_rows, limits.max_logits);
  if (groups_.last_stage()) head_.measure(groups_, dry, limits.max_logits);
  const size_t rope_bytes = static_cast<size_t>(limits.max_context * c_.head_dim) * sizeof(float);
  require_cache_memory(backend_, cache_layout_.groups, limits, dry.peak(), rope_bytes);

  arena_ = Arena(backend_.allocate(dry.peak()));
  cache_.allocate(backend_, cache_layout_.layer_groups, limits, partition_.kv_heads.padded, c_.head_dim, cache_dtype_);
  positions_ = limits.max_context;
  rope_table_ = backend_.allocate(rope_bytes);
  backend_.copy_in(rope_table_.view(DType::kF32, {positions_, c_.head_dim}), rope_table(c_.rope, positions_).data());
  if (groups_.last_stage()) head_.allocate(backend_, groups_, limits.max_logits);
}

Tensor Llama::forward(const BatchView& batch) {
  arena_.release(0);
  const Activations a = take(arena_, batch.rows, batch.logits);
  const Tensor positions = rope_table_.view(DType::kF32, {positions_, c_.head_dim});
  const int64_t q = partition_.heads.padded * c_.head_dim, kv = partition_.kv_heads.padded * c_.head_dim;
  AttentionShape shape;
  shape.n_heads = partition_.heads.padded;
  shape.n_kv_heads = partition_.kv_heads.padded;
  shape.head_dim = c_.head_dim;
  shape.scale = 1.0f / std::sqrt(static_cast<float>(c_.head_dim));

  if (groups_.first_stage()) {
    embedding_(backend_, groups_, a.x, batch.tokens);
  } else {
    groups_.pp->recv(a.x, groups_.stage() - 1);
  }
  Tensor pending;  // output of the block before, not yet part of x
  const auto add_and_norm = [&](const Buffer& weight) {
    if (pending) {
      backend_.rms_norm(a.h, pending, a.x, norm(weight), c_.eps);
    } else {
      backend_.rms_norm(a.h, a.x, {}, norm(weight), c_.eps);
    }
    pending = a.out;
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const int group = cache_layout_.layer_groups[i];
    shape.window = cache_layout_.groups[static_cast<size_t>(group)].window;
    const CacheLayer& cache = cache_.layer(i);
    add_and_norm(layer.attention_norm);
    layer.qkv(backend_, a.qkv, a.h);
    const Tensor query = a.qkv.columns(0, q);
    backend_.rope_and_cache(query, a.qkv.columns(q, kv), a.qkv.columns(q + kv, kv), positions, batch, group, shape,
                            cache);
    backend_.attention(a.attended, query, batch, group, shape, cache);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(groups_, a.out);
    add_and_norm(layer.mlp_norm);
    layer.gate_up(backend_, a.gate_up, a.h);
    backend_.gated_activation(a.ff, a.gate_up, c_.activation);
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
  backend_.rms_norm(a.last_norm, a.last, {}, norm(final_norm_), c_.eps);
  return head_(backend_, groups_, arena_, a.last_norm);
}

const RegisterFamily kRegistered(
    {"llama",
     {"LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel", "Qwen2ForCausalLM", "Qwen2Model"},
     "model.",
     describe_llama,
     [](LoadContext& context) -> std::unique_ptr<Model> { return std::make_unique<Llama>(context); }});
}  // namespace
}  // namespace sluice

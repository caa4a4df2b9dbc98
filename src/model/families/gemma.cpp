// SPDX-License-Identifier: Apache-2.0
// Gemma 1, 2 and 3 (text). Embeddings times sqrt(H); norms times 1 + weight; a tied head. Gemma 1 has Llama's order of
// operations. Gemma 2 and 3 also norm what a block gives: x += post(o(attention(norm(x)))), x += post(mlp(norm(x))).
// Gemma 2 caps scores and logits; Gemma 3 norms the heads of q and k, and rotates its sliding layers by a base of their
// own.
#include <fmt/format.h>

#include <cmath>

#include "model/gated_decoder.h"

namespace sluice {
namespace {
struct GemmaConfig : GatedConfig {
  int generation = 1;
  RopeConfig local_rope;  // of sliding layers
  float scale = 1;        // of scores
  float attention_cap = 0, logits_cap = 0;
};

bool nested(const Config& config) { return config.has("text_config"); }

// A cap by its default; null means none.
float read_cap(const Config& config, const char* key, double fallback) {
  if (config.contains(key) && !config.has(key)) return 0;
  const double cap = config.number(key, fallback);
  if (cap < 0) config.refuse(key, "a number above 0, or null");
  return static_cast<float>(cap);
}

// Both rotations of Gemma 3: keys of older configs, or rope_parameters by kind of layer.
void read_ropes(const Config& config, GemmaConfig& c) {
  RopeDefaults whole{1e6, c.max_positions}, local{10000.0, c.max_positions};
  local.theta = config.number("rope_local_base_freq", local.theta);
  c.local_rope.theta = local.theta;
  c.local_rope.rotary = c.head_dim;
  if (config.is_object("rope_parameters")) {
    const Config kinds = config.section("rope_parameters");
    if (kinds.is_object("full_attention") && kinds.is_object("sliding_attention")) {
      c.rope = read_rope_section(config, kinds.section("full_attention"), c.head_dim, whole);
      c.local_rope = read_rope_section(config, kinds.section("sliding_attention"), c.head_dim, local);
      return;
    }
  }
  c.rope = read_rope(config, c.head_dim, whole);
}

GemmaConfig read_gemma(const Config& file) {
  const std::string architecture = file.texts("architectures").front();
  const int generation = architecture.starts_with("Gemma3") ? 3 : architecture.starts_with("Gemma2") ? 2 : 1;
  const Config config = nested(file) ? file.section("text_config") : file;
  GatedConfig defaults;
  defaults.vocab = generation == 3 ? 262208 : 256000, defaults.d_model = generation == 1 ? 3072 : 2304;
  defaults.d_ff = generation == 1 ? 24576 : 9216, defaults.n_layers = generation == 1 ? 28 : 26;
  defaults.n_heads = generation == 1 ? 16 : 8, defaults.n_kv_heads = generation == 1 ? 16 : 4;
  defaults.head_dim = 256, defaults.max_positions = generation == 3 ? 131072 : 8192;
  GemmaConfig c{};
  static_cast<GatedConfig&>(c) = read_gated_sizes(config, defaults);
  c.generation = generation;
  c.activation = read_activation(config, generation == 1 ? "hidden_act" : "hidden_activation", "gelu_pytorch_tanh");
  c.tied = config.flag("tie_word_embeddings", file.flag("tie_word_embeddings", true));
  if (config.flag("attention_bias", false)) config.refuse("attention_bias", "false");
  c.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  if (generation == 3) {
    read_ropes(config, c);
  } else {
    c.rope = read_rope(config, c.head_dim, RopeDefaults{10000.0, c.max_positions});
  }
  if (c.rope.varies() || c.local_rope.varies())
    config.refuse("rope_scaling", "a scaling that does not depend on the length of the sequence");
  if (generation == 1) return c;
  c.scale = static_cast<float>(std::pow(config.number("query_pre_attn_scalar", 256), -0.5));
  c.attention_cap = read_cap(config, "attn_logit_softcapping", generation == 2 ? 50.0 : 0.0);
  c.logits_cap = read_cap(config, "final_logit_softcapping", generation == 2 ? 30.0 : 0.0);
  c.head_norms = generation == 3;
  if (config.contains("sliding_window") && !config.has("sliding_window")) return c;
  const int64_t window = config.integer("sliding_window", 4096, 1, kMany);
  const int64_t pattern = generation == 2 ? 2 : config.integer("sliding_window_pattern", 6, 1, 10000);
  c.windows = read_layer_windows(
      config, c.n_layers, window, [](int64_t layer, int64_t every) { return (layer + 1) % every != 0; }, pattern);
  return c;
}

// Names of a text model stand alone or under one that also reads images, in two orders.
struct Names {
  explicit Names(const std::string& base) : base(base) {}
  std::string embed() const { return base + "embed_tokens.weight"; }
  std::string norm() const { return base + "norm"; }
  std::string layer(int64_t i) const { return fmt::format("{}layers.{}.", base, i); }
  static std::string head() { return "lm_head.weight"; }
  std::string base;
};
constexpr const char* kNested[] = {"language_model.model.", "model.language_model."};
Names names_of(const LoadContext& context) {
  if (nested(context.config)) {
    for (const char* base : kNested)
      if (context.names_begin(base)) return Names(base);
  }
  return Names("model.");
}

std::vector<TensorSpec> gemma_tensors(const GemmaConfig& c, const Names& names, bool tied) {
  const Dim h{c.d_model}, f{c.d_ff, Split::kFeedForward};
  const Dim q{c.n_heads * c.head_dim, Split::kQueryHeads}, kv{c.n_kv_heads * c.head_dim, Split::kKvHeads};
  TensorTable t;
  t.embedding("");
  t.tensor(names.embed(), {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, names.layer(i));
    t.norm("input_layernorm", c.d_model);
    t.linear("self_attn.q_proj", q, h);
    t.linear("self_attn.k_proj", kv, h);
    t.linear("self_attn.v_proj", kv, h);
    if (c.head_norms) t.norm("self_attn.q_norm", c.head_dim);
    if (c.head_norms) t.norm("self_attn.k_norm", c.head_dim);
    t.linear("self_attn.o_proj", h, q);
    t.norm("post_attention_layernorm", c.d_model);
    if (c.generation > 1) t.norm("pre_feedforward_layernorm", c.d_model);
    t.linear("mlp.gate_proj", f, h);
    t.linear("mlp.up_proj", f, h);
    t.linear("mlp.down_proj", h, f);
    if (c.generation > 1) t.norm("post_feedforward_layernorm", c.d_model);
  }
  t.head("");
  t.norm(names.norm(), c.d_model);
  if (!tied) t.tensor(Names::head(), {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

// sqrt(H) as a number of the weights' dtype.
float embedding_scale(int64_t d_model, DType dtype) {
  const float exact = std::sqrt(static_cast<float>(d_model));
  if (dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(exact));
  return dtype == DType::kF16 ? f16_to_f32(f32_to_f16(exact)) : exact;
}

class Gemma final : public DecoderModel {
 public:
  Gemma(LoadContext& context, const GemmaConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, attention_post, mlp_norm, mlp_post, q_norm, k_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear gate_up;  // rows: gate, then up
    RowLinear down;
  };
  void take_more(Arena& arena, int64_t rows, int64_t) override {
    if (c_.generation > 1) normed_ = arena.take(activation_, {rows, c_.d_model});
  }
  size_t table_bytes(int64_t positions) const override { return rope_.bytes(positions) + local_rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override {
    rope_.allocate(backend_, positions);
    if (c_.generation == 3) local_rope_.allocate(backend_, positions);
  }
  void leave_block(Activations& a, const Norm& post) const;

  GemmaConfig c_;
  float embedding_scale_;
  RopeTable rope_, local_rope_;
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
  Tensor normed_;  // [T, H] of this step: a block's output after its own norm
};

Gemma::Gemma(LoadContext& context, const GemmaConfig& c)
    : DecoderModel(context, c),
      c_(c),
      embedding_scale_(embedding_scale(c.d_model, context.dtype)),
      layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c.rope;
  local_rope_.config = c.local_rope;
  const Names file = names_of(context);
  const TiedNames names = tie_head(context, file.embed(), Names::head());
  ModuleLoader load(context, prepare(context, gemma_tensors(c, file, names.tied), file.embed(), names), partition_);
  load_ends(load, names);
  const auto norm = [&](const char* name, Norm& to) { load.norm(name, to, NormKind::kRms, c.eps, 1.0f); };
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(file.layer(global_layer(i)));
    norm("input_layernorm", layer.attention_norm);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    if (c.head_norms) norm("self_attn.q_norm", layer.q_norm);
    if (c.head_norms) norm("self_attn.k_norm", layer.k_norm);
    load.row("self_attn.o_proj", layer.o);
    if (c.generation > 1) {
      norm("post_attention_layernorm", layer.attention_post);
      norm("pre_feedforward_layernorm", layer.mlp_norm);
      norm("post_feedforward_layernorm", layer.mlp_post);
    } else {
      norm("post_attention_layernorm", layer.mlp_norm);
    }
    load.column({"mlp.gate_proj", "mlp.up_proj"}, layer.gate_up);
    load.row("mlp.down_proj", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm(file.norm(), final_norm_, NormKind::kRms, c.eps, 1.0f);
  load.run(info_);
}

// What the block gave joins the residual stream, after its own norm where there is one.
void Gemma::leave_block(Activations& a, const Norm& post) const {
  reduce(a.out);
  a.pending = a.out;
  if (c_.generation == 1) return;
  post(backend_, normed_, a.out);
  a.pending = normed_;
}

Tensor Gemma::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) {
    embed(a.x, batch);
    backend_.scale(a.x, embedding_scale_);
  }
  AttentionShape shape = attention_shape();
  shape.scale = c_.scale;
  shape.soft_cap = c_.attention_cap;
  const int64_t q = shape.n_heads * shape.head_dim, kv = shape.n_kv_heads * shape.head_dim;
  const auto weight = [&](const Norm& norm) { return norm.weight.view(DType::kF32, {c_.head_dim}); };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const bool local = c_.generation == 3 && sizes_.windows[static_cast<size_t>(global_layer(i))] > 0;
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    if (c_.head_norms) {
      backend_.head_norm(a.qkv.columns(0, q), weight(layer.q_norm), c_.eps);
      backend_.head_norm(a.qkv.columns(q, kv), weight(layer.k_norm), c_.eps);
    }
    attend(a, batch, i, shape, local ? local_rope_.view() : rope_.view());
    layer.o(backend_, groups_, a.out, a.attended);
    leave_block(a, layer.attention_post);
    norm(layer.mlp_norm, a);
    layer.gate_up(backend_, a.up, a.h);
    backend_.gated_activation(a.ff, a.up, c_.activation);
    layer.down(backend_, groups_, a.out, a.ff);
    leave_block(a, layer.mlp_post);
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  const Tensor out = logits(a.last_norm);
  if (c_.logits_cap > 0) backend_.soft_cap(out, c_.logits_cap);
  return out;
}

std::unique_ptr<Model> load_gemma(LoadContext& context) {
  const GemmaConfig c = read_gemma(context.config);
  return std::make_unique<Gemma>(context, c);
}

const RegisterFamily kRegistered({"gemma",
                                  {"GemmaForCausalLM", "GemmaModel", "Gemma2ForCausalLM", "Gemma2Model",
                                   "Gemma3ForCausalLM", "Gemma3TextModel", "Gemma3ForConditionalGeneration"},
                                  "model.",
                                  {{Names("model.").embed(), Names(kNested[0]).embed(), Names(kNested[1]).embed()},
                                   Names::head()},
                                  [](const Config& config, ModelInfo& info) {
                                    const GemmaConfig c = read_gemma(config);
                                    describe_decoder(c, gemma_tensors(c, Names("model."), c.tied), info);
                                  },
                                  load_gemma});
}  // namespace
}  // namespace sluice

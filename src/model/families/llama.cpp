// SPDX-License-Identifier: Apache-2.0
// Llama 1, 2 and 3, and the models that differ from it in numbers only: Mistral (sliding window) and Qwen2 (biases of
// q, k and v). x += o(attention(norm(x))); x += down(act(gate(norm(x))) * up(norm(x))); logits = head(norm(x)).
#include <fmt/format.h>

#include "model/decoder.h"

namespace sluice {
namespace {
struct LlamaConfig : DecoderSizes {
  float eps = 1e-6f;
  Activation activation = Activation::kSilu;
  RopeConfig rope;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
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
  c.ff_products = 2;
  if (qwen2) {
    c.qkv_bias = true;
  } else if (!mistral) {
    c.qkv_bias = c.o_bias = config.flag("attention_bias", false);
    c.mlp_bias = config.flag("mlp_bias", false);
  }
  if (mistral || qwen2) c.windows = read_windows(config, mistral, c.n_layers);
  return c;
}

const std::string kEmbed = "model.embed_tokens.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

// Without the head where it is the embedding.
std::vector<TensorSpec> llama_tensors(const LlamaConfig& c, bool tied) {
  const Dim h{c.d_model}, f{c.d_ff, Split::kFeedForward};
  const Dim q{c.n_heads * c.head_dim, Split::kQueryHeads}, kv{c.n_kv_heads * c.head_dim, Split::kKvHeads};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model);
    t.linear("self_attn.q_proj", q, h, c.qkv_bias);
    t.linear("self_attn.k_proj", kv, h, c.qkv_bias);
    t.linear("self_attn.v_proj", kv, h, c.qkv_bias);
    t.linear("self_attn.o_proj", h, q, c.o_bias);
    t.norm("post_attention_layernorm", c.d_model);
    t.linear("mlp.gate_proj", f, h, c.mlp_bias);
    t.linear("mlp.up_proj", f, h, c.mlp_bias);
    t.linear("mlp.down_proj", h, f, c.mlp_bias);
  }
  t.head("");
  t.norm("model.norm", c.d_model);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

class Llama final : public DecoderModel {
 public:
  Llama(LoadContext& context, const LlamaConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear gate_up;  // rows: gate, then up
    RowLinear down;
  };
  size_t table_bytes(int64_t positions) const override { return rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override { rope_.allocate(backend_, positions); }

  Activation act_;
  RopeTable rope_;
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
};

Llama::Llama(LoadContext& context, const LlamaConfig& c)
    : DecoderModel(context, c), act_(c.activation), layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c.rope;
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, llama_tensors(c, names.tied), kEmbed, names, {".rotary_emb.inv_freq"}),
                    partition_);
  load_ends(load, names);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.attention_norm, NormKind::kRms, c.eps);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    load.row("self_attn.o_proj", layer.o);
    load.norm("post_attention_layernorm", layer.mlp_norm, NormKind::kRms, c.eps);
    load.column({"mlp.gate_proj", "mlp.up_proj"}, layer.gate_up);
    load.row("mlp.down_proj", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm("model.norm", final_norm_, NormKind::kRms, c.eps);
  load.run(info_);
}

Tensor Llama::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  const AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (groups_.tp_size() == 1) {  // nothing stands between a product and the stream: fewer kernels
      layer.qkv.fused(backend_, a.qkv, a.x, &layer.attention_norm, nullptr, a.h, {});
      attend(a, batch, i, shape, rope_.view());
      layer.o(backend_, groups_, a.x, a.attended, a.x);
      layer.gate_up.fused(backend_, a.ff, a.x, &layer.mlp_norm, &act_, a.h, a.up);
      layer.down(backend_, groups_, a.x, a.ff, a.x);
      continue;
    }
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    attend(a, batch, i, shape, rope_.view());
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    a.pending = a.out;
    norm(layer.mlp_norm, a);
    layer.gate_up.fused(backend_, a.ff, a.h, nullptr, &act_, {}, a.up);
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"llama",
                                  {"LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel",
                                   "Qwen2ForCausalLM", "Qwen2Model"},
                                  "model.",
                                  [](const Config& config, ModelInfo& info) {
                                    const LlamaConfig c = read_llama(config);
                                    describe_decoder(c, llama_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Llama>(context, read_llama(context.config));
                                  }});
}  // namespace
}  // namespace sluice

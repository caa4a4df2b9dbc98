// SPDX-License-Identifier: Apache-2.0
// GPT-NeoX and Pythia.
//   parallel:   x += o(attention(norm(x))) + down(act(up(norm'(x))))
//   sequential: x += o(attention(norm(x))); x += down(act(up(norm'(x))))
// Heads rotate in their first elements alone; q, k and v of each head lie beside each other.
#include <fmt/format.h>

#include "model/plain_layers.h"

namespace sluice {
namespace {
struct NeoxConfig : DecoderSizes {
  float eps = 1e-5f;
  Activation activation = Activation::kGeluErf;
  RopeConfig rope;
  bool parallel = true, attention_bias = true;
};

NeoxConfig read_neox(const Config& config) {
  NeoxConfig c;
  c.vocab = config.integer("vocab_size", 50432, 1, kMany);
  c.d_model = config.integer("hidden_size", 6144, 1, kMany);
  c.d_ff = config.integer("intermediate_size", 24576, 1, kMany);
  c.n_layers = config.integer("num_hidden_layers", 44, 1, 10000);
  c.n_heads = c.n_kv_heads = config.integer("num_attention_heads", 64, 1, 65536);
  c.head_dim = even_head_dim(config, "hidden_size", c.d_model, c.n_heads);
  c.max_positions = config.integer("max_position_embeddings", 2048, 1, kMany);
  c.eps = static_cast<float>(config.number("layer_norm_eps", 1e-5));
  c.activation = read_activation(config, "hidden_act", "gelu");
  const auto rotary = static_cast<int64_t>(static_cast<double>(c.head_dim) * config.number("rotary_pct", 0.25));
  if (rotary < 2 || rotary > c.head_dim)
    config.refuse("rotary_pct", fmt::format("a share of the {} elements of a head", c.head_dim));
  c.rope = read_rope(config, rotary, config.number("rotary_emb_base", 10000.0));
  if (c.rope.varies()) config.refuse("rope_scaling", "a kind that does not change with the length of a sequence");
  c.parallel = config.flag("use_parallel_residual", true);
  c.attention_bias = config.flag("attention_bias", true);
  c.tied = config.flag("tie_word_embeddings", false);
  return c;
}

const std::string kEmbed = "gpt_neox.embed_in.weight", kHead = "embed_out.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("gpt_neox.layers.{}.", layer); }

std::vector<TensorSpec> neox_tensors(const NeoxConfig& c, bool tied) {
  const Dim h{c.d_model}, q{c.d_model, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model, true);
    t.norm("post_attention_layernorm", c.d_model, true);
    t.linear_by_head({"attention.q", "attention.k", "attention.v"}, "attention.query_key_value", c.n_heads, c.head_dim,
                     c.d_model, c.attention_bias);
    t.linear("attention.dense", h, q, c.attention_bias);
    t.linear("mlp.dense_h_to_4h", f, h, true);
    t.linear("mlp.dense_4h_to_h", h, f, true);
  }
  t.head("");
  t.norm("gpt_neox.final_layer_norm", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

constexpr PlainNames kNames{"input_layernorm",   "attention.q",       "attention.k",
                            "attention.v",       "attention.dense",   "post_attention_layernorm",
                            "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm",
                            layer_prefix};

class Neox final : public RotaryPlainDecoder {
 public:
  Neox(LoadContext& context, const NeoxConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  NeoxConfig c_;
};

Neox::Neox(LoadContext& context, const NeoxConfig& config)
    : RotaryPlainDecoder(context, config, config.rope), c_(config) {
  const TiedNames names = tie_head(context, kEmbed, kHead);
  // Masks and frequencies that old files carry, and the copy of a tied head, stay unread.
  ModuleLoader load(context,
                    prepare(context, neox_tensors(c_, names.tied), kEmbed, names,
                            {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq", kHead}),
                    partition_);
  load_ends(load, names);
  load_layers(load, kNames, c_.eps);
}

Tensor Neox::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  const AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    attention(layers_[i], i, a, batch, shape, rope_.view());
    if (!c_.parallel) complete(a);
    mlp(layers_[i], a, c_.activation, c_.parallel ? a.out : Tensor{});
    complete(a);
  }
  return end(a, batch);
}

const RegisterFamily kRegistered({"gpt_neox",
                                  {"GPTNeoXForCausalLM", "GPTNeoXModel"},
                                  "gpt_neox.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const NeoxConfig c = read_neox(config);
                                    describe_decoder(c, neox_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Neox>(context, read_neox(context.config));
                                  }});
}  // namespace
}  // namespace sluice

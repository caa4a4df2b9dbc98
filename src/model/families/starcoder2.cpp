// SPDX-License-Identifier: Apache-2.0
// StarCoder2. x += o(attention(norm(x))); x += down(act(up(norm(x)))); logits = head(norm(x)). Llama's names and
// positions, GPT-2's norms and MLP.
#include <fmt/format.h>

#include "model/plain_layers.h"

namespace sluice {
namespace {
struct StarCoder2Config : DecoderSizes {
  float eps = 1e-5f;
  Activation activation = Activation::kGeluTanh;
  RopeConfig rope;
  bool bias = true;
};

StarCoder2Config read_starcoder2(const Config& config) {
  StarCoder2Config c;
  c.vocab = config.integer("vocab_size", 49152, 1, kMany);
  c.d_model = config.integer("hidden_size", 3072, 1, kMany);
  c.d_ff = config.integer("intermediate_size", 12288, 1, kMany);
  c.n_layers = config.integer("num_hidden_layers", 30, 1, 10000);
  c.n_heads = config.integer("num_attention_heads", 24, 1, 65536);
  c.n_kv_heads = config.integer("num_key_value_heads", 2, 1, 65536);
  if (c.n_heads % c.n_kv_heads != 0)
    config.refuse("num_key_value_heads", fmt::format("a divisor of the {} query heads", c.n_heads));
  c.head_dim = even_head_dim(config, "hidden_size", c.d_model, c.n_heads);
  c.max_positions = config.integer("max_position_embeddings", 4096, 1, kMany);
  c.eps = static_cast<float>(config.number("norm_epsilon", 1e-5));
  c.activation = read_activation(config, "hidden_act", "gelu_pytorch_tanh");
  c.rope = read_rope(config, c.head_dim, 10000.0);
  if (c.rope.varies()) config.refuse("rope_scaling", "a kind that does not change with the length of a sequence");
  c.bias = config.flag("use_bias", true);
  if (config.has("sliding_window"))
    c.windows.assign(static_cast<size_t>(c.n_layers), config.integer("sliding_window", 0, 1, kMany));
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kEmbed = "model.embed_tokens.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

std::vector<TensorSpec> starcoder2_tensors(const StarCoder2Config& c, bool tied) {
  const Dim h{c.d_model}, f{c.d_ff, Split::kFeedForward};
  const Dim q{c.n_heads * c.head_dim, Split::kQueryHeads}, kv{c.n_kv_heads * c.head_dim, Split::kKvHeads};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model, true);
    t.linear("self_attn.q_proj", q, h, c.bias);
    t.linear("self_attn.k_proj", kv, h, c.bias);
    t.linear("self_attn.v_proj", kv, h, c.bias);
    t.linear("self_attn.o_proj", h, q, c.bias);
    t.norm("post_attention_layernorm", c.d_model, true);
    t.linear("mlp.c_fc", f, h, c.bias);
    t.linear("mlp.c_proj", h, f, c.bias);
  }
  t.head("");
  t.norm("model.norm", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

constexpr PlainNames kNames{
    "input_layernorm",          "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.c_fc",         "mlp.c_proj",       "model.norm",       layer_prefix};

class StarCoder2 final : public RotaryPlainDecoder {
 public:
  StarCoder2(LoadContext& context, const StarCoder2Config& config);
  Tensor forward(const BatchView& batch) override;

 private:
  Activation act_;
};

StarCoder2::StarCoder2(LoadContext& context, const StarCoder2Config& c)
    : RotaryPlainDecoder(context, c, c.rope), act_(c.activation) {
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, starcoder2_tensors(c, names.tied), kEmbed, names), partition_);
  load_ends(load, names);
  load_layers(load, kNames, c.eps);
}

Tensor StarCoder2::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  const AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    attention(layers_[i], i, a, batch, shape, rope_.view());
    complete(a);
    mlp(layers_[i], a, act_);
    complete(a);
  }
  return end(a, batch);
}

const RegisterFamily kRegistered({"starcoder2",
                                  {"Starcoder2ForCausalLM", "Starcoder2Model"},
                                  "model.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const StarCoder2Config c = read_starcoder2(config);
                                    describe_decoder(c, starcoder2_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<StarCoder2>(context, read_starcoder2(context.config));
                                  }});
}  // namespace
}  // namespace sluice

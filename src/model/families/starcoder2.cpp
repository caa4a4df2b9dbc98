// SPDX-License-Identifier: Apache-2.0
// StarCoder2. x += o(attention(norm(x))); x += down(act(up(norm(x)))); logits = head(norm(x)). Llama's names and
// positions, GPT-2's norms and MLP.
#include <fmt/format.h>

#include "model/decoder.h"

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

class StarCoder2 final : public DecoderModel {
 public:
  StarCoder2(LoadContext& context, const StarCoder2Config& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };
  size_t table_bytes(int64_t positions) const override { return rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override { rope_.allocate(backend_, positions); }

  Activation act_;
  RopeTable rope_;
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
};

StarCoder2::StarCoder2(LoadContext& context, const StarCoder2Config& c)
    : DecoderModel(context, c), act_(c.activation), layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c.rope;
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, starcoder2_tensors(c, names.tied), kEmbed, names), partition_);
  load_ends(load, names);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.attention_norm, NormKind::kLayer, c.eps);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    load.row("self_attn.o_proj", layer.o);
    load.norm("post_attention_layernorm", layer.mlp_norm, NormKind::kLayer, c.eps);
    load.column({"mlp.c_fc"}, layer.up);
    load.row("mlp.c_proj", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm("model.norm", final_norm_, NormKind::kLayer, c.eps);
  load.run(info_);
}

Tensor StarCoder2::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  const AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    attend(a, batch, i, shape, rope_.view());
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    a.pending = a.out;
    norm(layer.mlp_norm, a);
    layer.up(backend_, a.ff, a.h);
    backend_.activation(a.ff, act_);
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"starcoder2",
                                  {"Starcoder2ForCausalLM", "Starcoder2Model"},
                                  "model.",
                                  [](const Config& config, ModelInfo& info) {
                                    const StarCoder2Config c = read_starcoder2(config);
                                    describe_decoder(c, starcoder2_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<StarCoder2>(context, read_starcoder2(context.config));
                                  }});
}  // namespace
}  // namespace sluice

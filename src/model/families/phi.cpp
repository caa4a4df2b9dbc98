// SPDX-License-Identifier: Apache-2.0
// Phi-1, Phi-1.5 and Phi-2. One norm feeds attention and MLP side by side: x += o(attention(h)) + down(act(up(h))), h =
// layer_norm(x). Biases everywhere, the head included; a part of each head is rotated.
#include <fmt/format.h>

#include "model/gated_decoder.h"

namespace sluice {
namespace {
GatedConfig read_phi(const Config& config) {
  GatedConfig defaults;
  defaults.vocab = 51200, defaults.d_model = 2048, defaults.d_ff = 8192, defaults.n_layers = 24;
  defaults.n_heads = 32, defaults.max_positions = 2048;
  GatedConfig c = read_gated_sizes(config, defaults);
  c.eps = static_cast<float>(config.number("layer_norm_eps", 1e-5));
  c.activation = read_activation(config, "hidden_act", "gelu_new");
  c.ff_products = 1;
  c.head_norms = config.flag("qk_layernorm", false);
  RopeDefaults rope{10000.0, c.max_positions};
  const int64_t rotary = read_rotary(config, c.head_dim, 0.5, &rope.share);
  c.rope = read_rope(config, rotary, rope);
  c.max_positions = c.rope.context(c.max_positions);
  return c;
}

const std::string kEmbed = "model.embed_tokens.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

std::vector<TensorSpec> phi_tensors(const GatedConfig& c, bool tied) {
  const Dim h{c.d_model}, f{c.d_ff, Split::kFeedForward};
  const Dim q{c.n_heads * c.head_dim, Split::kQueryHeads}, kv{c.n_kv_heads * c.head_dim, Split::kKvHeads};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model, true);
    t.linear("self_attn.q_proj", q, h, true);
    t.linear("self_attn.k_proj", kv, h, true);
    t.linear("self_attn.v_proj", kv, h, true);
    if (c.head_norms) t.norm("self_attn.q_layernorm", c.head_dim, true);
    if (c.head_norms) t.norm("self_attn.k_layernorm", c.head_dim, true);
    t.linear("self_attn.dense", h, q, true);
    t.linear("mlp.fc1", f, h, true);
    t.linear("mlp.fc2", h, f, true);
  }
  t.head("");
  t.norm("model.final_layernorm", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  t.tensor("lm_head.bias", {c.vocab}, Split::kVocab);
  return t.take();
}

class Phi final : public DecoderModel {
 public:
  Phi(LoadContext& context, const GatedConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm norm, q_norm, k_norm;  // the last two of single heads, where the model has them
    ColumnLinear qkv;           // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };
  void norm_heads(const Layer& layer, const Tensor& qkv) const;
  void take_more(Arena& arena, int64_t rows, int64_t) override {
    mlp_out_ = arena.take(activation_, {rows, sizes_.d_model});
    rope_.take(arena, rows);
  }
  size_t table_bytes(int64_t positions) const override { return rope_.config.varies() ? 0 : rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override { rope_.allocate(backend_, positions, limits_.max_rows); }

  Activation act_;
  bool head_norms_;
  RopeTable rope_;
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
  Tensor mlp_out_;  // [T, H] of this step
};

Phi::Phi(LoadContext& context, const GatedConfig& c)
    : DecoderModel(context, c),
      act_(c.activation),
      head_norms_(c.head_norms),
      layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c.rope;
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, phi_tensors(c, names.tied), kEmbed, names, {".rotary_emb.inv_freq"}),
                    partition_);
  load_ends(load, names);
  const std::string head_bias = "lm_head.bias";
  if (names.tied && groups_.last_stage()) load.weights().vector({&head_bias, 1}, head_.bias);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.norm, NormKind::kLayer, c.eps);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    if (c.head_norms) load.norm("self_attn.q_layernorm", layer.q_norm, NormKind::kLayer, c.eps);
    if (c.head_norms) load.norm("self_attn.k_layernorm", layer.k_norm, NormKind::kLayer, c.eps);
    load.row("self_attn.dense", layer.o);
    load.column({"mlp.fc1"}, layer.up);
    load.row("mlp.fc2", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm("model.final_layernorm", final_norm_, NormKind::kLayer, c.eps);
  load.run(info_);
}

void Phi::norm_heads(const Layer& layer, const Tensor& qkv) const {
  const int64_t queries = partition_.heads.padded, keys = partition_.kv_heads.padded;
  for (int64_t head = 0; head < queries + keys; ++head) {
    const Tensor one = qkv.columns(head * sizes_.head_dim, sizes_.head_dim);
    (head < queries ? layer.q_norm : layer.k_norm)(backend_, one, one);
  }
}

Tensor Phi::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  const AttentionShape shape = attention_shape();
  const RopeView rope = rope_.begin(backend_, batch);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    if (head_norms_) norm_heads(layer, a.qkv);
    attend(a, batch, i, shape, rope);
    layer.o(backend_, groups_, a.out, a.attended);
    layer.up(backend_, a.up, a.h);
    backend_.activation(a.ff, act_);
    layer.down(backend_, groups_, mlp_out_, a.ff);
    backend_.add(a.out, mlp_out_);
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"phi",
                                  {"PhiForCausalLM", "PhiModel"},
                                  "model.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const GatedConfig c = read_phi(config);
                                    describe_decoder(c, phi_tensors(c, c.tied), info);
                                    describe_rotation(c.rope, info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    const GatedConfig c = read_phi(context.config);
                                    return std::make_unique<Phi>(context, c);
                                  }});
}  // namespace
}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Falcon: 7B (one key head for all queries), 40B and 180B (the new architecture: a key head per group), RW (ALiBi, one
// key head per query, sequential blocks).
//   parallel:   x += o(attention(norm(x))) + down(act(up(norm'(x)))), norm' the same norm or one of its own
//   sequential: x += o(attention(norm(x))); x += down(act(up(norm'(x))))
#include <fmt/format.h>

#include "model/alibi.h"
#include "model/decoder.h"
#include "tensor/dtype.h"

namespace sluice {
namespace {
struct FalconConfig : DecoderSizes {
  float eps = 1e-5f;
  Activation activation = Activation::kGeluErf;
  RopeConfig rope;
  bool alibi = false, bias = false;
  bool parallel = true;   // attention and MLP see the same x
  int norms = 1;          // of a parallel block
  bool by_group = false;  // the new architecture's names
};

FalconConfig read_falcon(const Config& config) {
  FalconConfig c;
  c.vocab = config.integer("vocab_size", 65024, 1, kMany);
  const int64_t hidden = config.integer("hidden_size", 4544, 1, kMany);
  c.d_model = config.integer("n_embed", hidden, 1, kMany);
  c.d_ff = config.integer("ffn_hidden_size", 4 * hidden, 1, kMany);
  c.n_layers = read_size(config, {"num_hidden_layers", "n_layer"}, 32, 10000);
  c.n_heads = read_size(config, {"num_attention_heads", "n_head"}, 71, 65536);
  c.head_dim = even_head_dim(config, config.contains("n_embed") ? "n_embed" : "hidden_size", c.d_model, c.n_heads);
  c.by_group = config.flag("new_decoder_architecture", false);
  const bool one_key_head = config.flag("multi_query", true) && !c.by_group;
  c.n_kv_heads = one_key_head ? 1
                 : c.by_group ? read_size(config, {"num_kv_heads", "n_head_kv"}, c.n_heads, 65536)
                              : c.n_heads;
  if (c.n_heads % c.n_kv_heads != 0)
    config.refuse("num_kv_heads", fmt::format("a divisor of the {} query heads", c.n_heads));
  c.max_positions = config.integer("max_position_embeddings", 2048, 1, kMany);
  c.eps = static_cast<float>(config.number("layer_norm_epsilon", 1e-5));
  c.activation = read_activation(config, "activation", "gelu");
  c.bias = config.flag("bias", false);
  c.alibi = config.flag("alibi", false);
  if (!c.alibi) c.rope = read_rope(config, c.head_dim, 10000.0);
  if (c.rope.varies()) config.refuse("rope_scaling", "a kind that does not change with the length of a sequence");
  c.parallel = config.flag("parallel_attn", true);
  if (c.by_group && !c.parallel) config.refuse("parallel_attn", "true with new_decoder_architecture");
  if (c.parallel && c.by_group) c.norms = static_cast<int>(config.integer("num_ln_in_parallel_attn", 2, 1, 2));
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kEmbed = "transformer.word_embeddings.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("transformer.h.{}.", layer); }
const char* attention_norm_name(const FalconConfig& c) { return c.norms == 2 ? "ln_attn" : "input_layernorm"; }
const char* mlp_norm_name(const FalconConfig& c) { return c.norms == 2 ? "ln_mlp" : "post_attention_layernorm"; }
bool has_mlp_norm(const FalconConfig& c) { return !c.parallel || c.norms == 2; }

std::vector<TensorSpec> falcon_tensors(const FalconConfig& c, bool tied) {
  const Dim h{c.d_model}, q{c.n_heads * c.head_dim, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm(attention_norm_name(c), c.d_model, true);
    t.linear_by_head({"self_attention.q", "self_attention.k", "self_attention.v"}, "self_attention.query_key_value",
                     c.n_kv_heads, c.head_dim, c.d_model, c.bias, c.n_heads / c.n_kv_heads);
    t.linear("self_attention.dense", h, q, c.bias);
    if (has_mlp_norm(c)) t.norm(mlp_norm_name(c), c.d_model, true);
    t.linear("mlp.dense_h_to_4h", f, h, c.bias);
    t.linear("mlp.dense_4h_to_h", h, f, c.bias);
  }
  t.head("");
  t.norm("transformer.ln_f", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

class Falcon final : public DecoderModel {
 public:
  Falcon(LoadContext& context, const FalconConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;  // mlp_norm may be absent
    ColumnLinear qkv;               // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };
  size_t table_bytes(int64_t positions) const override { return c_.alibi ? 0 : rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override {
    if (!c_.alibi) rope_.allocate(backend_, positions);
  }

  FalconConfig c_;
  RopeTable rope_;
  Buffer slopes_;              // f32 [local heads]
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
};

Falcon::Falcon(LoadContext& context, const FalconConfig& config)
    : DecoderModel(context, config), c_(config), layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c_.rope;
  if (c_.alibi) {
    std::vector<float> slopes = alibi_slopes(c_.n_heads);
    for (float& slope : slopes) slope = bf16_to_f32(f32_to_bf16(slope));
    slopes_ = local_slopes(backend_, slopes, partition_.heads);
  }
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, falcon_tensors(c_, names.tied), kEmbed, names, {".rotary_emb.inv_freq"}),
                    partition_);
  load_ends(load, names);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm(attention_norm_name(c_), layer.attention_norm, NormKind::kLayer, c_.eps);
    load.column({"self_attention.q", "self_attention.k", "self_attention.v"}, layer.qkv);
    load.row("self_attention.dense", layer.o);
    if (has_mlp_norm(c_)) load.norm(mlp_norm_name(c_), layer.mlp_norm, NormKind::kLayer, c_.eps);
    load.column({"mlp.dense_h_to_4h"}, layer.up);
    load.row("mlp.dense_4h_to_h", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm("transformer.ln_f", final_norm_, NormKind::kLayer, c_.eps);
  load.run(info_);
}

Tensor Falcon::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  AttentionShape shape = attention_shape();
  if (c_.alibi) {
    shape.alibi_slopes = slopes_.view(DType::kF32, {shape.n_heads});
    shape.alibi_rounded = true;
  }
  const Tensor rope = c_.alibi ? Tensor{} : rope_.view();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    attend(a, batch, i, shape, rope);
    layer.o(backend_, groups_, a.out, a.attended);
    if (!c_.parallel) {
      reduce(a.out);
      a.pending = a.out;
    }
    if (has_mlp_norm(c_)) norm(layer.mlp_norm, a);
    layer.up(backend_, a.ff, a.h);
    backend_.activation(a.ff, c_.activation);
    layer.down(backend_, groups_, a.out, a.ff, c_.parallel ? a.out : Tensor{});
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"falcon",
                                  {"FalconForCausalLM", "FalconModel", "RWForCausalLM", "RWModel"},
                                  "transformer.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const FalconConfig c = read_falcon(config);
                                    describe_decoder(c, falcon_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Falcon>(context, read_falcon(context.config));
                                  }});
}  // namespace
}  // namespace sluice

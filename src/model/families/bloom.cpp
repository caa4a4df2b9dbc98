// SPDX-License-Identifier: Apache-2.0
// BLOOM and BLOOMZ. x = norm(token); x += o(attention(norm(x))); x += down(gelu(up(norm(x)))); logits = head(norm(x)).
// ALiBi positions; everything has biases; q, k and v of each head lie beside each other; the head is the embedding.
#include <fmt/format.h>

#include "model/alibi.h"
#include "model/decoder.h"

namespace sluice {
namespace {
struct BloomConfig : DecoderSizes {
  float eps = 1e-5f;
  bool residual_from_norm = false;  // the residual stream goes on from the norm's output, not from its input
};

BloomConfig read_bloom(const Config& config) {
  BloomConfig c;
  c.vocab = config.integer("vocab_size", 250880, 1, kMany);
  c.d_model = read_size(config, {"hidden_size", "n_embed", "n_embd"}, 64, kMany);
  c.n_layers = read_size(config, {"n_layer", "num_hidden_layers"}, 2, 10000);
  c.n_heads = c.n_kv_heads = read_size(config, {"n_head", "num_attention_heads"}, 8, 65536);
  c.head_dim = even_head_dim(config, config.contains("hidden_size") ? "hidden_size" : "n_embed", c.d_model, c.n_heads);
  c.d_ff = 4 * c.d_model;
  // ALiBi knows no end; published models were trained on 2048.
  c.max_positions = config.integer("seq_length", 2048, 1, kMany);
  c.eps = static_cast<float>(config.number("layer_norm_epsilon", 1e-5));
  c.residual_from_norm = config.flag("apply_residual_connection_post_layernorm", false);
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kEmbed = "transformer.word_embeddings.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("transformer.h.{}.", layer); }

std::vector<TensorSpec> bloom_tensors(const BloomConfig& c, bool tied) {
  const Dim h{c.d_model}, q{c.d_model, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  TensorTable t;
  t.embedding("transformer.");
  t.tensor("word_embeddings.weight", {c.vocab, c.d_model}, Split::kVocab);
  t.norm("word_embeddings_layernorm", c.d_model, true);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model, true);
    t.linear_by_head({"self_attention.q", "self_attention.k", "self_attention.v"}, "self_attention.query_key_value",
                     c.n_heads, c.head_dim, c.d_model, true);
    t.linear("self_attention.dense", h, q, true);
    t.norm("post_attention_layernorm", c.d_model, true);
    t.linear("mlp.dense_h_to_4h", f, h, true);
    t.linear("mlp.dense_4h_to_h", h, f, true);
  }
  t.head("");
  t.norm("transformer.ln_f", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

class Bloom final : public DecoderModel {
 public:
  Bloom(LoadContext& context, const BloomConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };

  BloomConfig c_;
  Norm embedding_norm_, final_norm_;
  Buffer slopes_;              // f32 [local heads]
  std::vector<Layer> layers_;  // of this stage
};

Bloom::Bloom(LoadContext& context, const BloomConfig& config)
    : DecoderModel(context, config),
      c_(config),
      slopes_(local_slopes(backend_, alibi_slopes(c_.n_heads), partition_.heads)),
      layers_(static_cast<size_t>(range_.count)) {
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, bloom_tensors(c_, names.tied), kEmbed, names), partition_);
  load_ends(load, names);
  if (groups_.first_stage())
    load.norm("transformer.word_embeddings_layernorm", embedding_norm_, NormKind::kLayer, c_.eps);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.attention_norm, NormKind::kLayer, c_.eps);
    load.column({"self_attention.q", "self_attention.k", "self_attention.v"}, layer.qkv);
    load.row("self_attention.dense", layer.o);
    load.norm("post_attention_layernorm", layer.mlp_norm, NormKind::kLayer, c_.eps);
    load.column({"mlp.dense_h_to_4h"}, layer.up);
    load.row("mlp.dense_4h_to_h", layer.down);
  }
  load.within("");
  if (groups_.last_stage()) load.norm("transformer.ln_f", final_norm_, NormKind::kLayer, c_.eps);
  load.run(info_);
}

Tensor Bloom::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) {
    embed(a.out, batch);
    embedding_norm_(backend_, a.x, a.out);
  }
  AttentionShape shape = attention_shape();
  shape.alibi_slopes = slopes_.view(DType::kF32, {shape.n_heads});
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    attend(a, batch, i, shape);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    if (c_.residual_from_norm) std::swap(a.x, a.h);
    a.pending = a.out;
    norm(layer.mlp_norm, a);
    layer.up(backend_, a.ff, a.h);
    backend_.activation(a.ff, Activation::kGeluTanh);
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(a.out);
    if (c_.residual_from_norm) std::swap(a.x, a.h);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"bloom",
                                  {"BloomForCausalLM", "BloomModel"},
                                  "transformer.",
                                  [](const Config& config, ModelInfo& info) {
                                    const BloomConfig c = read_bloom(config);
                                    describe_decoder(c, bloom_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Bloom>(context, read_bloom(context.config));
                                  }});
}  // namespace
}  // namespace sluice

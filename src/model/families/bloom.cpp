// SPDX-License-Identifier: Apache-2.0
// BLOOM and BLOOMZ. x = norm(token); x += o(attention(norm(x))); x += down(gelu(up(norm(x)))); logits = head(norm(x)).
// ALiBi positions; everything has biases; q, k and v of each head lie beside each other; the head is the embedding.
#include <fmt/format.h>

#include "model/alibi.h"
#include "model/plain_layers.h"

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

constexpr PlainNames kNames{
    "input_layernorm",          "self_attention.q",  "self_attention.k",  "self_attention.v", "self_attention.dense",
    "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "transformer.ln_f", layer_prefix};

class Bloom final : public PlainDecoder {
 public:
  Bloom(LoadContext& context, const BloomConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  BloomConfig c_;
  Norm embedding_norm_;
  Buffer slopes_;  // f32 [local heads]
};

Bloom::Bloom(LoadContext& context, const BloomConfig& config)
    : PlainDecoder(context, config),
      c_(config),
      slopes_(local_slopes(backend_, alibi_slopes(c_.n_heads), partition_.heads)) {
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, bloom_tensors(c_, names.tied), kEmbed, names), partition_);
  load_ends(load, names);
  if (groups_.first_stage())
    load.norm("transformer.word_embeddings_layernorm", embedding_norm_, NormKind::kLayer, c_.eps);
  load_layers(load, kNames, c_.eps);
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
    attention(layers_[i], i, a, batch, shape);
    complete(a);
    if (c_.residual_from_norm) std::swap(a.x, a.h);
    mlp(layers_[i], a, Activation::kGeluTanh);
    complete(a);
    if (c_.residual_from_norm) std::swap(a.x, a.h);
  }
  return end(a, batch);
}

const RegisterFamily kRegistered({"bloom",
                                  {"BloomForCausalLM", "BloomModel"},
                                  "transformer.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const BloomConfig c = read_bloom(config);
                                    describe_decoder(c, bloom_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Bloom>(context, read_bloom(context.config));
                                  }});
}  // namespace
}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// GPT-2. x = token + position; x += o(attention(ln_1(x))); x += down(act(up(ln_2(x)))); logits = head(ln_f(x)). Linear
// layers are stored [in, out] with biases, q, k and v as blocks of one matrix; the head is the embedding.
#include <fmt/format.h>

#include <cmath>

#include "model/plain_layers.h"

namespace sluice {
namespace {
struct Gpt2Config : DecoderSizes {
  float eps = 1e-5f;
  Activation activation = Activation::kGeluTanh;
  bool scaled = true, scaled_by_layer = false;  // scores / sqrt(head_dim), and / (layer + 1)
};

Gpt2Config read_gpt2(const Config& config) {
  Gpt2Config c{};
  c.vocab = config.integer("vocab_size", 50257, 1, kMany);
  c.d_model = read_size(config, {"n_embd", "hidden_size"}, 768, kMany);
  c.n_layers = read_size(config, {"n_layer", "num_hidden_layers"}, 12, 10000);
  c.n_heads = c.n_kv_heads = read_size(config, {"n_head", "num_attention_heads"}, 12, 65536);
  c.max_positions = read_size(config, {"n_positions", "max_position_embeddings"}, 1024, kMany);
  c.d_ff = config.integer("n_inner", 4 * c.d_model, 1, kMany);
  c.head_dim = even_head_dim(config, config.contains("n_embd") ? "n_embd" : "hidden_size", c.d_model, c.n_heads);
  c.eps = static_cast<float>(config.number("layer_norm_epsilon", 1e-5));
  c.activation = read_activation(config, "activation_function", "gelu_new");
  c.scaled = config.flag("scale_attn_weights", true);
  c.scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", false);
  if (config.flag("add_cross_attention", false)) config.refuse("add_cross_attention", "false, a decoder alone");
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kTokens = "transformer.wte.weight", kPositions = "transformer.wpe.weight", kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("transformer.h.{}.", layer); }

// Without the head where it is the embedding. q, k and v are columns of attn.c_attn.
std::vector<TensorSpec> gpt2_tensors(const Gpt2Config& c, bool tied) {
  const Dim h{c.d_model}, q{c.d_model, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  const Stored turned{.transposed = true};
  TensorTable t;
  t.embedding("");
  t.tensor(kTokens, {c.vocab, c.d_model}, Split::kVocab);
  t.tensor(kPositions, {c.max_positions, c.d_model});
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("ln_1", c.d_model, true);
    const char* const blocks[3] = {"attn.q", "attn.k", "attn.v"};
    for (int64_t b = 0; b < 3; ++b)
      t.linear(blocks[b], q, h, true, {true, "attn.c_attn", b * c.d_model, 3 * c.d_model});
    t.linear("attn.c_proj", h, q, true, turned);
    t.norm("ln_2", c.d_model, true);
    t.linear("mlp.c_fc", f, h, true, turned);
    t.linear("mlp.c_proj", h, f, true, turned);
  }
  t.head("");
  t.norm("transformer.ln_f", c.d_model, true);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

constexpr PlainNames kNames{"ln_1", "attn.q",   "attn.k",     "attn.v",           "attn.c_proj",
                            "ln_2", "mlp.c_fc", "mlp.c_proj", "transformer.ln_f", layer_prefix};

class Gpt2 final : public PlainDecoder {
 public:
  Gpt2(LoadContext& context, const Gpt2Config& config);
  Tensor forward(const BatchView& batch) override;

 private:
  Gpt2Config c_;
  Buffer positions_;  // [positions, H] in stored_; on the first stage
};

Gpt2::Gpt2(LoadContext& context, const Gpt2Config& config) : PlainDecoder(context, config), c_(config) {
  const TiedNames names = tie_head(context, kTokens, kHead);
  // Causal masks that old files carry stay unread.
  ModuleLoader load(context,
                    prepare(context, gpt2_tensors(c_, names.tied), kTokens, names, {".attn.bias", ".attn.masked_bias"}),
                    partition_);
  load_ends(load, names);
  if (groups_.first_stage()) load.table(kPositions, positions_);
  load_layers(load, kNames, c_.eps);
}

Tensor Gpt2::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) {
    embed(a.x, batch);
    backend_.embed(a.out, positions_.view(stored_, {c_.max_positions, c_.d_model}), batch.positions, 0);
    a.pending = a.out;
  }
  AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const float depth = c_.scaled_by_layer ? static_cast<float>(global_layer(i) + 1) : 1.0f;
    shape.scale = 1.0f / (depth * (c_.scaled ? std::sqrt(static_cast<float>(c_.head_dim)) : 1.0f));
    attention(layers_[i], i, a, batch, shape);
    complete(a);
    mlp(layers_[i], a, c_.activation);
    complete(a);
  }
  return end(a, batch);
}

const RegisterFamily kRegistered({"gpt2",
                                  {"GPT2LMHeadModel", "GPT2Model"},
                                  "transformer.",
                                  {.embed = {kTokens}, .head = kHead, .transposed = true},
                                  [](const Config& config, ModelInfo& info) {
                                    const Gpt2Config c = read_gpt2(config);
                                    describe_decoder(c, gpt2_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Gpt2>(context, read_gpt2(context.config));
                                  }});
}  // namespace
}  // namespace sluice

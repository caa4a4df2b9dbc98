// SPDX-License-Identifier: Apache-2.0
// OPT and Galactica. x = token (projected up where embeddings are narrower) + position;
//   pre-norm:  x += o(attention(norm(x))); x += down(act(up(norm(x))))
//   post-norm: x = norm(x + o(attention(x))); x = norm(x + down(act(up(x))))     (350m)
// logits = head(x, normed if pre-norm, projected down where embeddings are narrower).
#include <fmt/format.h>

#include "model/decoder.h"

namespace sluice {
namespace {
constexpr int32_t kFirstPosition = 2;  // row of the position table for position 0

struct OptConfig : DecoderSizes {
  int64_t d_embed = 0;  // of embeddings
  Activation activation = Activation::kRelu;
  bool norm_first = true, final_norm = true;
  bool bias = true;          // of linear layers
  bool norm_weights = true;  // norms have weights and biases
};

OptConfig read_opt(const Config& config) {
  OptConfig c;
  c.vocab = config.integer("vocab_size", 50272, 1, kMany);
  c.d_model = config.integer("hidden_size", 768, 1, kMany);
  c.d_embed = config.integer("word_embed_proj_dim", c.d_model, 1, kMany);
  c.d_ff = config.integer("ffn_dim", 3072, 1, kMany);
  c.n_layers = config.integer("num_hidden_layers", 12, 1, 10000);
  c.n_heads = c.n_kv_heads = config.integer("num_attention_heads", 12, 1, 65536);
  c.head_dim = even_head_dim(config, "hidden_size", c.d_model, c.n_heads);
  c.max_positions = config.integer("max_position_embeddings", 2048, 1, kMany);
  c.activation = read_activation(config, "activation_function", "relu");
  c.norm_first = config.flag("do_layer_norm_before", true);
  c.final_norm = c.norm_first && !config.flag("_remove_final_layer_norm", false);
  c.bias = config.flag("enable_bias", true);
  c.norm_weights = config.flag("layer_norm_elementwise_affine", true);
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kEmbed = "model.decoder.embed_tokens.weight", kHead = "lm_head.weight";
const std::string kPositions = "model.decoder.embed_positions.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.decoder.layers.{}.", layer); }

std::vector<TensorSpec> opt_tensors(const OptConfig& c, bool tied) {
  const Dim h{c.d_model}, q{c.d_model, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  const bool projected = c.d_embed != c.d_model;
  TensorTable t;
  const auto norm = [&](const char* name) {
    if (c.norm_weights) t.norm(name, c.d_model, true);
  };
  t.embedding("model.decoder.");
  t.tensor("embed_tokens.weight", {c.vocab, c.d_embed}, Split::kVocab);
  t.tensor("embed_positions.weight", {c.max_positions + kFirstPosition, c.d_model});
  if (projected) t.linear("project_in", h, {c.d_embed});
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    norm("self_attn_layer_norm");
    t.linear("self_attn.q_proj", q, h, c.bias);
    t.linear("self_attn.k_proj", q, h, c.bias);
    t.linear("self_attn.v_proj", q, h, c.bias);
    t.linear("self_attn.out_proj", h, q, c.bias);
    norm("final_layer_norm");
    t.linear("fc1", f, h, c.bias);
    t.linear("fc2", h, f, c.bias);
  }
  t.head("model.decoder.");
  if (c.final_norm) norm("final_layer_norm");
  if (projected) t.linear("project_out", {c.d_embed}, h);
  t.head("");
  if (!tied) t.tensor(kHead, {c.vocab, c.d_embed}, Split::kVocab);
  return t.take();
}

class Opt final : public DecoderModel {
 public:
  Opt(LoadContext& context, const OptConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;
    RowLinear down;
  };
  bool projected() const { return c_.d_embed != c_.d_model; }
  void take_more(Arena& arena, int64_t rows, int64_t logits) override {
    if (projected() && groups_.first_stage()) words_ = arena.take(activation_, {rows, c_.d_embed});
    if (projected() && groups_.last_stage()) narrow_ = arena.take(activation_, {logits, c_.d_embed});
  }
  void load_norm(ModuleLoader& load, const char* name, Norm& to);
  void end_of_block(const Norm& norm, Activations& a) const;

  OptConfig c_;
  Buffer positions_;  // [positions + kFirstPosition, H] in stored_; on the first stage
  ColumnLinear project_in_, project_out_;
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
  Tensor words_, narrow_;  // [T, d_embed], [logits, d_embed]
};

Opt::Opt(LoadContext& context, const OptConfig& config)
    : DecoderModel(context, config), c_(config), layers_(static_cast<size_t>(range_.count)) {
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context, prepare(context, opt_tensors(c_, names.tied), kEmbed, names), partition_);
  load_ends(load, names);
  load.within("model.decoder.");
  if (groups_.first_stage()) {
    load.table(kPositions, positions_);
    if (projected()) load.column({"project_in"}, project_in_);
  }
  if (groups_.last_stage()) {
    if (c_.final_norm) load_norm(load, "final_layer_norm", final_norm_);
    if (projected()) load.column({"project_out"}, project_out_);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load_norm(load, "self_attn_layer_norm", layer.attention_norm);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    load.row("self_attn.out_proj", layer.o);
    load_norm(load, "final_layer_norm", layer.mlp_norm);
    load.column({"fc1"}, layer.up);
    load.row("fc2", layer.down);
  }
  load.run(info_);
}

void Opt::load_norm(ModuleLoader& load, const char* name, Norm& to) {
  if (c_.norm_weights) return load.norm(name, to, NormKind::kLayer, 1e-5f);
  const std::vector<float> ones(static_cast<size_t>(c_.d_model), 1.0f);
  to.weight = backend_.allocate(ones.size() * sizeof(float));
  backend_.copy_in(to.weight.view(DType::kF32, {c_.d_model}), ones.data());
}

// Takes a.out into the stream: at once and normed, or with the next norm.
void Opt::end_of_block(const Norm& norm, Activations& a) const {
  a.pending = a.out;
  if (c_.norm_first) return;
  DecoderModel::norm(norm, a);
  std::swap(a.x, a.h);
}

Tensor Opt::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) {
    embed(projected() ? words_ : a.x, batch);
    if (projected()) project_in_(backend_, a.x, words_);
    backend_.embed(a.out, positions_.view(stored_, {c_.max_positions + kFirstPosition, c_.d_model}), batch.positions,
                   -kFirstPosition);
    backend_.add(a.x, a.out);
  }
  const AttentionShape shape = attention_shape();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (c_.norm_first) norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, c_.norm_first ? a.h : a.x);
    attend(a, batch, i, shape);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    end_of_block(layer.attention_norm, a);
    if (c_.norm_first) norm(layer.mlp_norm, a);
    layer.up(backend_, a.ff, c_.norm_first ? a.h : a.x);
    backend_.activation(a.ff, c_.activation);
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(a.out);
    end_of_block(layer.mlp_norm, a);
  }
  if (!finish(a, batch)) return no_logits();
  Tensor last = a.last;
  if (c_.final_norm) final_norm_(backend_, last = a.last_norm, a.last);
  if (projected()) {
    project_out_(backend_, narrow_, last);
    last = narrow_;
  }
  return logits(last);
}

const RegisterFamily kRegistered({"opt",
                                  {"OPTForCausalLM", "OPTModel"},
                                  "model.",
                                  {{kEmbed}, kHead},
                                  [](const Config& config, ModelInfo& info) {
                                    const OptConfig c = read_opt(config);
                                    describe_decoder(c, opt_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<Opt>(context, read_opt(context.config));
                                  }});
}  // namespace
}  // namespace sluice

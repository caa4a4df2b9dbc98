// SPDX-License-Identifier: Apache-2.0
#include "model/gated_decoder.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {
namespace {
constexpr const char *kEmbed = "model.embed_tokens.weight", *kHead = "lm_head.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

// Without the head where it is the embedding.
std::vector<TensorSpec> gated_tensors(const GatedConfig& c, bool tied, bool spread, ExpertNames experts) {
  const Dim h{c.d_model}, f{c.d_ff, Split::kFeedForward};
  const Dim q{c.n_heads * c.head_dim, Split::kQueryHeads}, kv{c.n_kv_heads * c.head_dim, Split::kKvHeads};
  const auto part = [&](const char* name, int64_t first, int64_t outputs) {
    Stored out;
    if (c.fused) out.name = name, out.first = first, out.outputs = outputs;
    return out;
  };
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model);
    const int64_t all = q.size + 2 * kv.size;
    t.linear("self_attn.q_proj", q, h, c.qkv_bias, part("self_attn.qkv_proj", 0, all));
    t.linear("self_attn.k_proj", kv, h, c.qkv_bias, part("self_attn.qkv_proj", q.size, all));
    t.linear("self_attn.v_proj", kv, h, c.qkv_bias, part("self_attn.qkv_proj", q.size + kv.size, all));
    if (c.head_norms) t.norm("self_attn.q_norm", c.head_dim);
    if (c.head_norms) t.norm("self_attn.k_norm", c.head_dim);
    t.linear("self_attn.o_proj", h, q, c.o_bias);
    if (c.sinks) t.tensor("self_attn.sinks", {c.n_heads}, Split::kHeads);
    t.norm("post_attention_layernorm", c.d_model);
    if (c.is_sparse(i)) {
      list_mixture(t, c.mixture, c.d_model, spread, experts);
      continue;
    }
    t.linear("mlp.gate_proj", f, h, c.mlp_bias, part("mlp.gate_up_proj", 0, 2 * f.size));
    t.linear("mlp.up_proj", f, h, c.mlp_bias, part("mlp.gate_up_proj", f.size, 2 * f.size));
    t.linear("mlp.down_proj", h, f, c.mlp_bias);
  }
  t.head("");
  t.norm("model.norm", c.d_model);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

// By the first layer that has any.
ExpertNames experts_in(const LoadContext& context, const GatedConfig& c) {
  for (int64_t i = 0; i < c.n_layers; ++i)
    if (c.is_sparse(i)) return find_experts(context, layer_prefix(i), c.experts);
  return c.experts;
}

class GatedDecoder final : public DecoderModel {
 public:
  GatedDecoder(LoadContext& context, const GatedConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, q_norm, k_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    Buffer sinks;  // f32, of this rank's heads, or empty
    bool sparse = false;
    ColumnLinear gate_up;  // rows: gate, then up
    RowLinear down;
    Mixture mixture;
  };
  void take_more(Arena& arena, int64_t rows, int64_t) override { rope_.take(arena, rows); }
  void take_ff(Arena& arena, int64_t rows) override {
    if (first_mixture_ != nullptr) scratch_ = first_mixture_->take(arena, activation_, c_.mixture, rows, c_.d_model);
  }
  size_t table_bytes(int64_t positions) const override { return c_.rope.varies() ? 0 : rope_.bytes(positions); }
  void allocate_tables(int64_t positions) override { rope_.allocate(backend_, positions, limits_.max_rows); }
  void norm_heads(const Layer& layer, const Tensor& qkv) const;

  GatedConfig c_;
  RopeTable rope_;
  std::vector<Layer> layers_;  // of this stage
  const Mixture* first_mixture_ = nullptr;
  Mixture::Scratch scratch_;  // of this step, for one layer after the other
  Norm final_norm_;
};

GatedDecoder::GatedDecoder(LoadContext& context, const GatedConfig& c)
    : DecoderModel(context, c), c_(c), layers_(static_cast<size_t>(range_.count)) {
  const bool spread = !c.sparse.empty() && spread_experts(context, c.mixture);
  rope_.config = c.rope;
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context,
                    prepare(context, gated_tensors(c, names.tied, spread, experts_in(context, c)), kEmbed, names,
                            {".rotary_emb.inv_freq"}),
                    partition_);
  load_ends(load, names);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.attention_norm, NormKind::kRms, c.eps);
    load.column({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, layer.qkv);
    if (c.head_norms) load.norm("self_attn.q_norm", layer.q_norm, NormKind::kRms, c.eps);
    if (c.head_norms) load.norm("self_attn.k_norm", layer.k_norm, NormKind::kRms, c.eps);
    load.row("self_attn.o_proj", layer.o);
    if (c.sinks) load.vector({"self_attn.sinks"}, layer.sinks);
    load.norm("post_attention_layernorm", layer.mlp_norm, NormKind::kRms, c.eps);
    layer.sparse = c.is_sparse(global_layer(i));
    if (layer.sparse) {
      layer.mixture.load(load, c.mixture, spread, groups_);
    } else {
      load.column({"mlp.gate_proj", "mlp.up_proj"}, layer.gate_up);
      if (groups_.tp_size() == 1) load.fold(layer.mlp_norm, layer.gate_up);
      load.row("mlp.down_proj", layer.down);
    }
  }
  load.within("");
  if (groups_.last_stage()) load.norm("model.norm", final_norm_, NormKind::kRms, c.eps);
  load.run(info_);
  for (Layer& layer : layers_) {
    if (!layer.sparse) continue;
    layer.mixture.finish(backend_);
    if (first_mixture_ == nullptr) first_mixture_ = &layer.mixture;
  }
}

void GatedDecoder::norm_heads(const Layer& layer, const Tensor& qkv) const {
  const int64_t q = partition_.heads.padded * c_.head_dim, kv = partition_.kv_heads.padded * c_.head_dim;
  backend_.head_norm(qkv.columns(0, q), layer.q_norm.weight.view(DType::kF32, {c_.head_dim}), c_.eps);
  backend_.head_norm(qkv.columns(q, kv), layer.k_norm.weight.view(DType::kF32, {c_.head_dim}), c_.eps);
}

Tensor GatedDecoder::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) embed(a.x, batch);
  AttentionShape shape = attention_shape();
  const RopeView rope = rope_.begin(backend_, batch);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (c_.sinks) shape.sinks = layer.sinks.view(DType::kF32, {shape.n_heads});
    if (groups_.tp_size() == 1) {  // nothing stands between a product and the stream: fewer kernels
      layer.qkv.fused(backend_, a.qkv, a.x, &layer.attention_norm, nullptr, a.h, {});
      if (c_.head_norms) norm_heads(layer, a.qkv);
      attend(a, batch, i, shape, rope);
      layer.o(backend_, groups_, a.x, a.attended, a.x);
      if (layer.sparse) {
        norm(layer.mlp_norm, a);
        layer.mixture(backend_, groups_, a.out, a.h, scratch_, c_.mixture, c_.activation);
        backend_.add(a.x, a.out);
        continue;
      }
      layer.gate_up.fused(backend_, a.ff, a.x, &layer.mlp_norm, &c_.activation, a.h, a.up);
      layer.down(backend_, groups_, a.x, a.ff, a.x);
      continue;
    }
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    if (c_.head_norms) norm_heads(layer, a.qkv);
    attend(a, batch, i, shape, rope);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    a.pending = a.out;
    norm(layer.mlp_norm, a);
    if (layer.sparse) {
      layer.mixture(backend_, groups_, a.out, a.h, scratch_, c_.mixture, c_.activation);
    } else {
      layer.gate_up.fused(backend_, a.ff, a.h, nullptr, &c_.activation, {}, a.up);
      layer.down(backend_, groups_, a.out, a.ff);
    }
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}
}  // namespace

GatedConfig read_gated_sizes(const Config& config, const GatedConfig& defaults) {
  GatedConfig c = defaults;
  c.vocab = config.integer("vocab_size", defaults.vocab, 1, kMany);
  c.d_model = config.integer("hidden_size", defaults.d_model, 1, kMany);
  c.d_ff = config.integer("intermediate_size", defaults.d_ff, 1, kMany);
  c.n_layers = config.integer("num_hidden_layers", defaults.n_layers, 1, 10000);
  c.n_heads = config.integer("num_attention_heads", defaults.n_heads, 1, 65536);
  const bool own_default = !config.contains("num_key_value_heads") && defaults.n_kv_heads > 0;
  c.n_kv_heads = config.integer("num_key_value_heads", own_default ? defaults.n_kv_heads : c.n_heads, 1, 65536);
  if (c.n_heads % c.n_kv_heads != 0)
    config.refuse("num_key_value_heads",
                  fmt::format("a divisor of num_attention_heads ({}), not {}", c.n_heads, c.n_kv_heads));
  const bool even = defaults.head_dim == 0 && !config.has("head_dim");
  if (even && c.d_model % c.n_heads != 0)
    config.refuse("hidden_size",
                  fmt::format("a multiple of num_attention_heads ({}), or head_dim to be given", c.n_heads));
  c.head_dim = config.integer("head_dim", even ? c.d_model / c.n_heads : defaults.head_dim, 2, 65536);
  c.max_positions = config.integer("max_position_embeddings", defaults.max_positions, 1, kMany);
  c.eps = static_cast<float>(config.number("rms_norm_eps", static_cast<double>(defaults.eps)));
  c.ff_products = 2;
  c.tied = config.flag("tie_word_embeddings", false);
  return c;
}

GatedConfig read_gated(const Config& config, const GatedConfig& defaults, const RopeDefaults& rope) {
  GatedConfig c = read_gated_sizes(config, defaults);
  c.activation = read_activation(config, "hidden_act", "silu");
  RopeDefaults own = rope;
  own.max_positions = defaults.max_positions;
  int64_t rotary = c.head_dim;
  if (rope.share > 0) {
    rotary = read_rotary(config, c.head_dim, rope.share, &own.share);
  } else {  // no part of a head in this family
    own.share = 1.0;
    if (config.number("partial_rotary_factor", 1.0) != 1.0)
      config.refuse("partial_rotary_factor", "1, rotation of whole heads");
  }
  c.rope = read_rope(config, rotary, own);
  c.max_positions = c.rope.context(c.max_positions);
  return c;
}

std::vector<int64_t> read_uniform_windows(const Config& config, const DecoderSizes& sizes) {
  const int64_t window = config.integer("sliding_window", 0, 1, kMany);
  if (window == 0 || window >= sizes.max_positions) return {};
  return std::vector<int64_t>(static_cast<size_t>(sizes.n_layers), window);
}

std::vector<int64_t> read_layer_windows(const Config& config, int64_t n_layers, int64_t window,
                                        bool (*slides)(int64_t, int64_t), int64_t parameter) {
  const std::vector<std::string> types = config.texts("layer_types");
  if (!types.empty() && static_cast<int64_t>(types.size()) != n_layers)
    config.refuse("layer_types", fmt::format("{} entries, one per layer", n_layers));
  std::vector<int64_t> out(static_cast<size_t>(n_layers), 0);
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string type =
        types.empty() ? (slides(i, parameter) ? "sliding_attention" : "full_attention") : types[static_cast<size_t>(i)];
    if (type != "sliding_attention" && type != "full_attention")
      config.refuse("layer_types", "full_attention or sliding_attention");
    if (type == "sliding_attention") out[static_cast<size_t>(i)] = window;
  }
  return out;
}

void describe_rotation(const RopeConfig& rope, ModelInfo& info) {
  if (!rope.varies()) return;
  info.varies_beyond = static_cast<int64_t>(rope.original);
  info.recomputes = rope.kind == RopeConfig::Kind::kLongRope;
}

FileNames gated_files() {
  return {.embed = {kEmbed}, .head = kHead, .kept = {".gate.weight", ".shared_expert_gate.weight"}};
}

void describe_gated(const GatedConfig& config, ModelInfo& info) {
  describe_decoder(config, gated_tensors(config, config.tied, false, config.experts), info);
  const MixtureConfig& m = config.mixture;
  const int64_t unused = 3 * (m.experts - m.top_k) * m.d_ff * config.d_model;  // of a layer in a decode step
  for (int64_t i = 0; i < config.n_layers; ++i)
    if (config.is_sparse(i)) info.linear_parameters -= unused;
  describe_rotation(config.rope, info);
}

std::unique_ptr<Model> load_gated(LoadContext& context, const GatedConfig& config) {
  return std::make_unique<GatedDecoder>(context, config);
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Megatron and NeMo GPT, with the keys of NeMo's model configuration and Megatron's tensor names. x = token + position;
// x += o(attention(norm(x))); x += down(act(up(norm(x)))); logits = head(norm(x)). q, k and v of each group of heads
// lie beside each other; files hold more vocabulary rows than there are tokens.
#include <fmt/format.h>

#include "model/alibi.h"
#include "model/decoder.h"

namespace sluice {
namespace {
struct MegatronConfig : DecoderSizes {
  int64_t padded_vocab = 0;  // rows of embedding and head in the file
  float eps = 1e-5f;
  Activation activation = Activation::kGeluTanh;
  NormKind norm = NormKind::kLayer;
  float norm_offset = 0;  // added to stored norm weights
  bool norm_bias = true, bias = true;
  bool gated = false, gate_apart = false;  // gate_apart: the second matrix has a name of its own
  bool rotates = false, alibi = false;     // neither: learned positions
  RopeConfig rope;
};

const std::string kTie = "share_embeddings_and_output_weights";

void refuse_unless(const Config& config, const char* key, const std::string& fallback, const std::string& only) {
  if (config.text(key, fallback) != only) config.refuse(key, only);
}

void read_mlp(const Config& config, MegatronConfig& c) {
  const std::string name = config.text("activation", "gelu");
  c.gate_apart = name == "swiglu" || name == "geglu";
  c.gated = c.gate_apart || name == "fast-swiglu" || name == "fast-geglu";
  c.ff_products = c.gated ? 2 : 1;
  if (name.ends_with("swiglu")) {
    c.activation = Activation::kSilu;
  } else if (name == "gelu" || name.ends_with("geglu")) {
    // The fused kernel and OpenAI's form are the tanh curve; plain torch is erf.
    const bool curve = config.flag("bias_activation_fusion", config.flag("bias_gelu_fusion", true)) ||
                       config.flag("openai_gelu", false);
    c.activation = curve ? Activation::kGeluTanh : Activation::kGeluErf;
  } else if (name == "relu") {
    c.activation = Activation::kRelu;
  } else {
    config.refuse("activation", "gelu, relu, geglu, swiglu, fast-geglu or fast-swiglu");
  }
}

void read_norm(const Config& config, MegatronConfig& c) {
  const std::string name = config.text("normalization", "layernorm");
  if (name != "layernorm" && name != "layernorm1p" && name != "rmsnorm")
    config.refuse("normalization", "layernorm, layernorm1p or rmsnorm");
  c.norm = name == "rmsnorm" ? NormKind::kRms : NormKind::kLayer;
  c.norm_bias = name != "rmsnorm";
  c.norm_offset = name == "layernorm1p" ? 1.0f : 0.0f;
  c.eps = static_cast<float>(config.number("layernorm_epsilon", 1e-5));
}

MegatronConfig read_megatron(const Config& config) {
  MegatronConfig c;
  c.vocab = read_size(config, {"vocab_size", "padded_vocab_size"}, 50257, kMany);
  c.padded_vocab = config.integer("padded_vocab_size", c.vocab, c.vocab, kMany);
  c.d_model = config.integer("hidden_size", 768, 1, kMany);
  c.d_ff = config.integer("ffn_hidden_size", 4 * c.d_model, 1, kMany);
  c.n_layers = config.integer("num_layers", 12, 1, 10000);
  c.n_heads = config.integer("num_attention_heads", 12, 1, 65536);
  c.n_kv_heads = config.integer("num_query_groups", c.n_heads, 1, 65536);
  if (c.n_heads % c.n_kv_heads != 0)
    config.refuse("num_query_groups", fmt::format("a divisor of the {} query heads", c.n_heads));
  c.head_dim = config.has("kv_channels") ? config.integer("kv_channels", 0, 2, 65536)
                                         : even_head_dim(config, "hidden_size", c.d_model, c.n_heads);
  c.max_positions = read_size(config, {"max_position_embeddings", "encoder_seq_length"}, 512, kMany);
  c.bias = config.flag("bias", true);
  read_mlp(config, c);
  read_norm(config, c);
  const std::string positions = config.text("position_embedding_type", "learned_absolute");
  if (positions != "learned_absolute" && positions != "rope" && positions != "alibi")
    config.refuse("position_embedding_type", "learned_absolute, rope or alibi");
  c.rotates = positions == "rope";
  c.alibi = positions == "alibi";
  if (c.rotates) {
    const double share = config.number("rotary_percentage", 1.0);
    c.rope.rotary = static_cast<int64_t>(static_cast<double>(c.head_dim) * share);
    if (c.rope.rotary < 2 || c.rope.rotary > c.head_dim || c.rope.rotary % 2 != 0)
      config.refuse("rotary_percentage", fmt::format("an even share of the {} elements of a head", c.head_dim));
    c.rope.theta = config.number("rotary_base", 10000.0);
    if (config.has("seq_len_interpolation_factor")) {
      c.rope.kind = RopeConfig::Kind::kLinear;
      c.rope.factor = config.number("seq_len_interpolation_factor");
    }
  }
  refuse_unless(config, "transformer_block_type", "pre_ln", "pre_ln");
  if (config.flag("headscale", false)) config.refuse("headscale", "false");
  if (config.flag("mcore_gpt", false)) config.refuse("mcore_gpt", "false: tensors by the names of Megatron-LM");
  c.tied = config.flag(kTie, true);
  return c;
}

const std::string kEmbed = "model.language_model.embedding.word_embeddings.weight";
const std::string kHead = "model.language_model.output_layer.weight";
const std::string kPositions = "model.language_model.embedding.position_embeddings.weight";
std::string layer_prefix(int64_t layer) { return fmt::format("model.language_model.encoder.layers.{}.", layer); }
bool learned(const MegatronConfig& c) { return !c.rotates && !c.alibi; }

std::vector<TensorSpec> megatron_tensors(const MegatronConfig& c, bool tied) {
  const Dim h{c.d_model}, q{c.n_heads * c.head_dim, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  TensorTable t;
  const auto vocabulary = [&](const std::string& name) {
    Stored padded;
    padded.outputs = c.padded_vocab;
    t.tensor(name, {c.vocab, c.d_model}, Split::kVocab, Split::kWhole, Init::kUniform, padded);
  };
  t.embedding("");
  vocabulary(kEmbed);
  if (learned(c)) t.tensor(kPositions, {c.max_positions, c.d_model});
  for (int64_t i = 0; i < c.n_layers; ++i) {
    t.layer(i, layer_prefix(i));
    t.norm("input_layernorm", c.d_model, c.norm_bias);
    t.linear_by_head({"self_attention.q", "self_attention.k", "self_attention.v"}, "self_attention.query_key_value",
                     c.n_kv_heads, c.head_dim, c.d_model, c.bias, c.n_heads / c.n_kv_heads);
    t.linear("self_attention.dense", h, q, c.bias);
    t.norm("post_attention_layernorm", c.d_model, c.norm_bias);
    if (c.gated && !c.gate_apart) {
      for (int64_t half = 0; half < 2; ++half) {
        Stored fused;
        fused.name = "mlp.dense_h_to_4h", fused.first = half * c.d_ff, fused.outputs = 2 * c.d_ff;
        t.linear(half == 0 ? "mlp.gate" : "mlp.up", f, h, c.bias, fused);
      }
    } else {
      t.linear("mlp.dense_h_to_4h", f, h, c.bias);
      if (c.gated) t.linear("mlp.dense_h_to_4h_2", f, h, c.bias);
    }
    t.linear("mlp.dense_4h_to_h", h, f, c.bias);
  }
  t.head("");
  t.norm("model.language_model.encoder.final_layernorm", c.d_model, c.norm_bias);
  if (!tied) vocabulary(kHead);
  return t.take();
}

class MegatronGpt final : public DecoderModel {
 public:
  MegatronGpt(LoadContext& context, const MegatronConfig& config);
  Tensor forward(const BatchView& batch) override;

 private:
  struct Layer {
    Norm attention_norm, mlp_norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank
    RowLinear o;
    ColumnLinear up;  // rows: gate, then up, where gated
    RowLinear down;
  };
  size_t table_bytes(int64_t positions) const override { return c_.rotates ? rope_.bytes(positions) : 0; }
  void allocate_tables(int64_t positions) override {
    if (c_.rotates) rope_.allocate(backend_, positions);
  }

  MegatronConfig c_;
  RopeTable rope_;
  Buffer positions_;           // [positions, H] in stored_; on the first stage, where learned
  Buffer slopes_;              // f32 [local heads]
  std::vector<Layer> layers_;  // of this stage
  Norm final_norm_;
};

MegatronGpt::MegatronGpt(LoadContext& context, const MegatronConfig& config)
    : DecoderModel(context, config), c_(config), layers_(static_cast<size_t>(range_.count)) {
  rope_.config = c_.rope;
  if (c_.alibi) slopes_ = local_slopes(backend_, alibi_slopes(c_.n_heads), partition_.heads);
  const TiedNames names = tie_head(context, kEmbed, kHead);
  ModuleLoader load(context,
                    prepare(context, megatron_tensors(c_, names.tied), kEmbed, names,
                            {kHead, "rotary_pos_emb.inv_freq", "_extra_state"}),
                    partition_);
  load_ends(load, names);
  if (groups_.first_stage() && learned(c_)) load.table(kPositions, positions_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    load.within(layer_prefix(global_layer(i)));
    load.norm("input_layernorm", layer.attention_norm, c_.norm, c_.eps, c_.norm_offset);
    load.column({"self_attention.q", "self_attention.k", "self_attention.v"}, layer.qkv);
    load.row("self_attention.dense", layer.o);
    load.norm("post_attention_layernorm", layer.mlp_norm, c_.norm, c_.eps, c_.norm_offset);
    if (!c_.gated) {
      load.column({"mlp.dense_h_to_4h"}, layer.up);
    } else if (c_.gate_apart) {
      load.column({"mlp.dense_h_to_4h", "mlp.dense_h_to_4h_2"}, layer.up);
    } else {
      load.column({"mlp.gate", "mlp.up"}, layer.up);
    }
    load.row("mlp.dense_4h_to_h", layer.down);
  }
  load.within("");
  if (groups_.last_stage())
    load.norm("model.language_model.encoder.final_layernorm", final_norm_, c_.norm, c_.eps, c_.norm_offset);
  load.run(info_);
}

Tensor MegatronGpt::forward(const BatchView& batch) {
  Activations a = begin(batch);
  if (!receive(a)) {
    embed(a.x, batch);
    if (learned(c_)) {
      backend_.embed(a.out, positions_.view(stored_, {c_.max_positions, c_.d_model}), batch.positions, 0);
      a.pending = a.out;
    }
  }
  AttentionShape shape = attention_shape();
  if (c_.alibi) shape.alibi_slopes = slopes_.view(DType::kF32, {shape.n_heads});
  const Tensor rope = c_.rotates ? rope_.view() : Tensor{};
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.attention_norm, a);
    layer.qkv(backend_, a.qkv, a.h);
    attend(a, batch, i, shape, rope);
    layer.o(backend_, groups_, a.out, a.attended);
    reduce(a.out);
    a.pending = a.out;
    norm(layer.mlp_norm, a);
    layer.up(backend_, a.up, a.h);
    if (c_.gated) {
      backend_.gated_activation(a.ff, a.up, c_.activation);
    } else {
      backend_.activation(a.ff, c_.activation);
    }
    layer.down(backend_, groups_, a.out, a.ff);
    reduce(a.out);
    a.pending = a.out;
  }
  if (!finish(a, batch)) return no_logits();
  final_norm_(backend_, a.last_norm, a.last);
  return logits(a.last_norm);
}

const RegisterFamily kRegistered({"megatron_gpt",
                                  {"MegatronGPTModel"},
                                  "model.",
                                  {{kEmbed}, kHead, kTie},
                                  [](const Config& config, ModelInfo& info) {
                                    const MegatronConfig c = read_megatron(config);
                                    describe_decoder(c, megatron_tensors(c, c.tied), info);
                                  },
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<MegatronGpt>(context, read_megatron(context.config));
                                  }});
}  // namespace
}  // namespace sluice

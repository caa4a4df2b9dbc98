// SPDX-License-Identifier: Apache-2.0
// T5 v1.1 and FLAN-T5, also the first T5 (relu, tied). The prompt passes the encoder in one step; each layer of the
// decoder then reads keys and values of its states, cached once per sequence, beside those of its own tokens.
//   encoder: x += o(attention(norm(x))); x += wo(act(wi(norm(x)))); states = norm(x)
//   decoder: x += o(attention(norm(x))); x += o(cross attention(norm(x), states)); x += wo(act(wi(norm(x))))
//   logits = head(norm(x)), divided by sqrt(H) where the head is the embedding
// Scores are not scaled; self-attention adds a bias by distance. Each stage holds layers of both stacks; the last one
// ends the encoder and gives its states to all.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "model/decoder.h"
#include "model/relative_bias.h"

namespace sluice {
namespace {
constexpr int kSelf = 0, kCross = 1;  // cache groups

struct T5Config : DecoderSizes {  // n_layers: of the decoder
  int64_t n_encoder_layers = 0;
  float eps = 1e-6f;
  Activation activation = Activation::kRelu;
  bool gated = false;
  RelativeBuckets buckets;
};

T5Config read_t5(const Config& config) {
  T5Config c;
  c.vocab = config.integer("vocab_size", 32128, 1, kMany);
  c.d_model = config.integer("d_model", 512, 1, kMany);
  c.d_ff = config.integer("d_ff", 2048, 1, kMany);
  c.n_heads = c.n_kv_heads = config.integer("num_heads", 8, 1, 65536);
  c.head_dim = config.integer("d_kv", 64, 1, 65536);
  c.n_encoder_layers = config.integer("num_layers", 6, 1, 10000);
  c.n_layers = config.integer("num_decoder_layers", c.n_encoder_layers, 1, 10000);
  // Relative positions know no end; the published models were trained on at most 512 tokens.
  c.max_positions = std::max<int64_t>(2048, config.integer("n_positions", 512, 1, kMany));
  c.eps = static_cast<float>(config.number("layer_norm_epsilon", 1e-6));
  c.buckets.buckets = config.integer("relative_attention_num_buckets", 32, 4, 65536);
  c.buckets.max_distance =
      config.integer("relative_attention_max_distance", 128, c.buckets.buckets / 2 + 1, int64_t{1} << 20);
  if (c.buckets.buckets % 4 != 0) config.refuse("relative_attention_num_buckets", "a multiple of 4");
  const std::string name = config.text("feed_forward_proj", "relu");
  c.gated = name.starts_with("gated-");
  const std::string act = name.substr(c.gated ? 6 : 0);
  if (act == "relu") {
    c.activation = Activation::kRelu;
  } else if (act == "silu") {
    c.activation = Activation::kSilu;
  } else if (act == "gelu_new" || name == "gated-gelu") {  // the gated form's name of old means the tanh curve
    c.activation = Activation::kGeluTanh;
  } else if (act == "gelu") {
    c.activation = Activation::kGeluErf;
  } else {
    config.refuse("feed_forward_proj", "relu, gelu, silu, gated-gelu, gated-silu or gated-relu");
  }
  c.ff_products = c.gated ? 2 : 1;
  c.tied = config.flag("tie_word_embeddings", true);
  return c;
}

const std::string kEmbed = "shared.weight", kHead = "lm_head.weight";
std::string block_prefix(const char* stack, int64_t layer) { return fmt::format("{}.block.{}.layer.", stack, layer); }
std::string bias_name(const char* stack) {
  return fmt::format("{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", stack);
}

std::vector<TensorSpec> t5_tensors(const T5Config& c, bool tied) {
  const Dim h{c.d_model}, q{c.n_heads * c.head_dim, Split::kQueryHeads}, f{c.d_ff, Split::kFeedForward};
  TensorTable t;
  t.embedding("");
  t.tensor(kEmbed, {c.vocab, c.d_model}, Split::kVocab);
  const auto attention = [&](const std::string& name) {
    for (const char* part : {"q", "k", "v"}) t.linear(name + "." + part, q, h);
    t.linear(name + ".o", h, q);
  };
  const auto stack = [&](const char* name, int64_t layers, bool crosses) {
    for (int64_t i = 0; i < layers; ++i) {
      t.layer(i, block_prefix(name, i));
      t.norm("0.layer_norm", c.d_model);
      attention("0.SelfAttention");
      if (i == 0) t.tensor("0.SelfAttention.relative_attention_bias.weight", {c.buckets.buckets, c.n_heads});
      if (crosses) t.norm("1.layer_norm", c.d_model);
      if (crosses) attention("1.EncDecAttention");
      const std::string ff = crosses ? "2." : "1.";
      t.norm(ff + "layer_norm", c.d_model);
      t.linear(ff + (c.gated ? "DenseReluDense.wi_0" : "DenseReluDense.wi"), f, h);
      if (c.gated) t.linear(ff + "DenseReluDense.wi_1", f, h);
      t.linear(ff + "DenseReluDense.wo", h, f);
    }
  };
  stack("encoder", c.n_encoder_layers, false);
  stack("decoder", c.n_layers, true);
  t.head("");
  t.norm("encoder.final_layer_norm", c.d_model);
  t.norm("decoder.final_layer_norm", c.d_model);
  if (!tied) t.tensor(kHead, {c.vocab, c.d_model}, Split::kVocab);
  return t.take();
}

void describe_t5(const Config& config, ModelInfo& info) {
  const T5Config c = read_t5(config);
  describe_decoder(c, t5_tensors(c, c.tied), info);
  // A decoding step reads neither the encoder nor the products that make the cross cache.
  const int64_t inner = c.n_heads * c.head_dim;
  info.linear_parameters = info.vocab * info.d_model;
  info.linear_parameters += c.n_layers * (6 * inner * c.d_model + (c.ff_products + 1) * c.d_ff * c.d_model);
  info.decoder_start = static_cast<int32_t>(
      config.integer("decoder_start_token_id", config.integer("pad_token_id", 0, 0, c.vocab - 1), 0, c.vocab - 1));
}

class T5 final : public Model {
 public:
  T5(LoadContext& context, const T5Config& config);
  const ModelInfo& info() const override { return info_; }
  const std::vector<CacheGroupSpec>& cache_groups() const override { return groups_of_cache_; }
  size_t step_bytes(const RunLimits& limits) override;
  void allocate(const RunLimits& limits) override;
  Tensor forward(const BatchView& batch) override;
  void copy_blocks(int group, const Tensor& pairs) override { cache_.copy_blocks(backend_, group, pairs); }

 private:
  struct Attention {
    Norm norm;
    ColumnLinear qkv;  // rows: q heads, k heads, v heads of this rank; q alone in cross attention
    ColumnLinear kv;   // of the encoder's states, in cross attention
    RowLinear o;
  };
  struct Mlp {
    Norm norm;
    ColumnLinear up;  // rows: gate, then up, where gated
    RowLinear down;
  };
  struct EncoderLayer {
    Attention self;
    Mlp mlp;
  };
  struct DecoderLayer {
    Attention self, cross;
    Mlp mlp;
  };
  // Scratch of one stack; what lives at different times shares memory.
  struct Activations {
    Tensor x, h, out;      // [T, H]
    Tensor pending;        // a block's output that x lacks: the next norm adds it
    Tensor qkv, attended;  // [T, 3 * heads * hd], [T, heads * hd]
    Tensor up, ff;         // [T, ff_products * F], [T, F]
    Tensor last, last_norm;
  };

  void load(LoadContext& context);
  void load_bias(ModuleLoader& load, const char* stack, Buffer& table);
  Buffer spread_bias(const Buffer& table, bool bidirectional);
  Activations take(Arena& arena, int64_t rows, int64_t logits) const;
  void enter(const Activations& a, const BatchView& batch);
  void norm(const Norm& norm, Activations& a) const;
  void mlp(const Mlp& mlp, Activations& a) const;
  void self_attention(const Attention& w, Activations& a, const BatchView& batch, int group, const CacheLayer& cache,
                      const AttentionShape& shape) const;
  void add_pending(Activations& a) const;
  void encode(const BatchView& batch);
  Tensor decode(const BatchView& batch);
  AttentionShape shape(const Buffer* bias, bool causal) const;
  int64_t inner() const { return partition_.heads.padded * c_.head_dim; }
  const CacheLayer& cache(size_t layer, int group) const {
    return cache_.layer(2 * layer + static_cast<size_t>(group));
  }

  T5Config c_;
  Backend& backend_;
  Groups& groups_;
  ModelInfo info_;
  Partition partition_;
  DType activation_, cache_dtype_;
  LayerRange encoder_range_, decoder_range_;  // of this stage
  std::vector<CacheGroupSpec> groups_of_cache_;
  VocabEmbedding embedding_;
  std::vector<EncoderLayer> encoder_;
  std::vector<DecoderLayer> decoder_;
  Buffer encoder_bias_, decoder_bias_;  // f32 [local heads, 2 * max_distance + 1]
  Norm encoder_norm_, decoder_norm_;    // on the last stage
  VocabLinear head_;
  KvCache cache_;
  Arena arena_;
};

T5::T5(LoadContext& context, const T5Config& config)
    : c_(config),
      backend_(context.backend),
      groups_(context.groups),
      info_(std::move(context.info)),
      partition_({c_.n_heads, c_.n_heads, c_.head_dim, c_.d_ff, c_.vocab}, groups_.tp_rank(), groups_.tp_size()),
      activation_(backend_.activation_dtype(scheme_of(context.dtype))),
      cache_dtype_(backend_.cache_dtype(scheme_of(context.dtype))),
      encoder_range_(stage_layers(c_.n_encoder_layers, groups_.stage(), groups_.stages())),
      decoder_range_(stage_layers(c_.n_layers, groups_.stage(), groups_.stages())) {
  encoder_.resize(static_cast<size_t>(encoder_range_.count));
  decoder_.resize(static_cast<size_t>(decoder_range_.count));
  const size_t bytes =
      KvCache::bytes_per_token(partition_.kv_heads.padded, c_.head_dim, cache_dtype_) * decoder_.size();
  groups_of_cache_ = {{"self", CacheGroupSpec::Growth::kPerToken, bytes, 0},
                      {"cross", CacheGroupSpec::Growth::kFixed, bytes, 0}};
  info_.kv_bytes_per_token = 2 * bytes;  // of a token of the prompt and one of the answer
  load(context);
}

void T5::load_bias(ModuleLoader& load, const char* stack, Buffer& table) {
  const std::string name = bias_name(stack);
  load.weights().vector({&name, 1}, table);
}

// [buckets, heads] to what each local head adds at each distance.
Buffer T5::spread_bias(const Buffer& table, bool bidirectional) {
  std::vector<float> values(static_cast<size_t>(c_.buckets.buckets * c_.n_heads));
  backend_.copy_out(values.data(), table.view(DType::kF32, {static_cast<int64_t>(values.size())}));
  RelativeBuckets how = c_.buckets;
  how.bidirectional = bidirectional;
  const Range& heads = partition_.heads;
  const std::vector<float> biases = relative_biases(how, values, c_.n_heads, heads.begin, heads.count, heads.padded);
  Buffer out = backend_.allocate(biases.size() * sizeof(float));
  backend_.copy_in(out.view(DType::kF32, {static_cast<int64_t>(biases.size())}), biases.data());
  return out;
}

void T5::load(LoadContext& context) {
  const TiedNames names = resolve_tie(context, kEmbed, kHead, c_.tied);
  if (c_.tied && !names.tied) info_.parameters += c_.vocab * c_.d_model;
  std::vector<TensorSpec> table = t5_tensors(c_, names.tied);
  table.front().name = names.embed;
  // Copies of the embedding and a table that no layer uses.
  warn_unused(context, table,
              {"coder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight", names.tied ? kHead : ""});
  ModuleLoader load(context, table, partition_);
  if (groups_.first_stage()) load.embedding(names.embed, embedding_);
  if (groups_.last_stage()) {
    load.head(names.head, head_);
    load.norm("encoder.final_layer_norm", encoder_norm_, NormKind::kRms, c_.eps);
    load.norm("decoder.final_layer_norm", decoder_norm_, NormKind::kRms, c_.eps);
  }
  Buffer encoder_table, decoder_table;
  load_bias(load, "encoder", encoder_table);
  load_bias(load, "decoder", decoder_table);
  const auto load_mlp = [&](const std::string& ff, Mlp& to) {
    load.norm(ff + "layer_norm", to.norm, NormKind::kRms, c_.eps);
    const std::string wi = ff + "DenseReluDense.wi", wi0 = wi + "_0", wi1 = wi + "_1";
    if (c_.gated) {
      load.column({wi0.c_str(), wi1.c_str()}, to.up);
    } else {
      load.column({wi.c_str()}, to.up);
    }
    const std::string wo = ff + "DenseReluDense.wo";
    load.row(wo.c_str(), to.down);
  };
  const auto load_self = [&](Attention& to) {
    load.norm("0.layer_norm", to.norm, NormKind::kRms, c_.eps);
    load.column({"0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v"}, to.qkv);
    load.row("0.SelfAttention.o", to.o);
  };
  for (size_t i = 0; i < encoder_.size(); ++i) {
    load.within(block_prefix("encoder", encoder_range_.begin + static_cast<int64_t>(i)));
    load_self(encoder_[i].self);
    load_mlp("1.", encoder_[i].mlp);
  }
  for (size_t i = 0; i < decoder_.size(); ++i) {
    DecoderLayer& layer = decoder_[i];
    load.within(block_prefix("decoder", decoder_range_.begin + static_cast<int64_t>(i)));
    load_self(layer.self);
    load.norm("1.layer_norm", layer.cross.norm, NormKind::kRms, c_.eps);
    load.column({"1.EncDecAttention.q"}, layer.cross.qkv);
    load.column({"1.EncDecAttention.k", "1.EncDecAttention.v"}, layer.cross.kv);
    load.row("1.EncDecAttention.o", layer.cross.o);
    load_mlp("2.", layer.mlp);
  }
  // The config's word decides, also where the files hold a head of their own.
  if (c_.tied && groups_.last_stage())
    load.scale(decoder_norm_.weight, 1.0f / std::sqrt(static_cast<float>(c_.d_model)));
  load.run(info_);
  encoder_bias_ = spread_bias(encoder_table, true);
  decoder_bias_ = spread_bias(decoder_table, false);
  for (const EncoderLayer& layer : encoder_)
    info_.read_bytes -= layer.self.qkv.weight->bytes() + layer.self.o.weight->bytes() + layer.mlp.up.weight->bytes() +
                        layer.mlp.down.weight->bytes();
  for (const DecoderLayer& layer : decoder_) info_.read_bytes -= layer.cross.kv.weight->bytes();
}

T5::Activations T5::take(Arena& arena, int64_t rows, int64_t logits) const {
  Activations a;
  a.x = arena.take(activation_, {rows, c_.d_model});
  a.h = arena.take(activation_, {rows, c_.d_model});
  a.out = arena.take(activation_, {rows, c_.d_model});
  const size_t shared = arena.mark();
  a.qkv = arena.take(activation_, {rows, 3 * inner()});
  a.attended = arena.take(activation_, {rows, inner()});
  arena.release(shared);
  a.up = arena.take(activation_, {rows, c_.ff_products * partition_.d_ff.padded});
  a.ff = c_.gated ? arena.take(activation_, {rows, partition_.d_ff.padded}) : a.up;
  arena.release(shared);
  a.last = arena.take(activation_, {logits, c_.d_model});
  a.last_norm = arena.take(activation_, {logits, c_.d_model});
  return a;
}

size_t T5::step_bytes(const RunLimits& limits) {
  Arena dry;
  take(dry, std::max(limits.max_rows, limits.max_encoder), limits.max_logits);
  if (groups_.last_stage()) head_.measure(groups_, dry, limits.max_logits);
  return dry.peak();
}

void T5::allocate(const RunLimits& limits) {
  require_context(limits, c_.max_positions);
  const size_t scratch = step_bytes(limits);
  require_cache_memory(backend_, groups_of_cache_, limits, scratch, 0);
  arena_ = Arena(backend_.allocate(scratch));
  std::vector<int> layers;
  for (size_t i = 0; i < decoder_.size(); ++i) layers.insert(layers.end(), {kSelf, kCross});
  cache_.allocate(backend_, layers, limits, partition_.kv_heads.padded, c_.head_dim, cache_dtype_);
  if (groups_.last_stage()) head_.allocate(backend_, groups_, limits.max_logits);
}

AttentionShape T5::shape(const Buffer* bias, bool causal) const {
  AttentionShape out;
  out.n_heads = out.n_kv_heads = partition_.heads.padded;
  out.head_dim = c_.head_dim;
  out.scale = 1.0f;
  out.causal = causal;
  if (bias != nullptr)
    out.distance_bias = bias->view(DType::kF32, {partition_.heads.padded, 2 * c_.buckets.max_distance + 1});
  return out;
}

// x of the stage before, or embedded tokens.
void T5::enter(const Activations& a, const BatchView& batch) {
  if (groups_.first_stage()) {
    embedding_(backend_, groups_, a.x, batch.tokens);
  } else {
    groups_.pp->recv(a.x, groups_.stage() - 1);
  }
}

void T5::norm(const Norm& norm, Activations& a) const {
  norm(backend_, a.h, a.pending ? a.pending : a.x, a.pending ? a.x : Tensor{});
  a.pending = {};
}

void T5::add_pending(Activations& a) const {
  backend_.add(a.x, a.pending);
  a.pending = {};
}

void T5::mlp(const Mlp& mlp, Activations& a) const {
  norm(mlp.norm, a);
  mlp.up(backend_, a.up, a.h);
  if (c_.gated) {
    backend_.gated_activation(a.ff, a.up, c_.activation);
  } else {
    backend_.activation(a.ff, c_.activation);
  }
  mlp.down(backend_, groups_, a.out, a.ff);
  reduce(groups_, a.out);
  a.pending = a.out;
}

void T5::self_attention(const Attention& w, Activations& a, const BatchView& batch, int group, const CacheLayer& cache,
                        const AttentionShape& shape) const {
  const int64_t q = inner();
  const Tensor query = a.qkv.columns(0, q);
  norm(w.norm, a);
  w.qkv(backend_, a.qkv, a.h);
  backend_.rope_and_cache(query, a.qkv.columns(q, q), a.qkv.columns(2 * q, q), {}, batch, group, shape, cache);
  backend_.attention(a.attended, query, batch, group, shape, cache);
  w.o(backend_, groups_, a.out, a.attended);
  reduce(groups_, a.out);
  a.pending = a.out;
}

// Until the states are known, the cross cache of this stage's first decoder layer holds the keys and values of one
// encoder layer after the other.
void T5::encode(const BatchView& batch) {
  arena_.release(0);
  Activations a = take(arena_, batch.rows, 0);
  enter(a, batch);
  const AttentionShape both_ways = shape(&encoder_bias_, false);
  for (const EncoderLayer& layer : encoder_) {
    self_attention(layer.self, a, batch, kCross, cache(0, kCross), both_ways);
    mlp(layer.mlp, a);
  }
  add_pending(a);
  if (groups_.last_stage()) {
    encoder_norm_(backend_, a.h, a.x);
  } else {
    groups_.pp->send(a.x, groups_.stage() + 1);
  }
  if (groups_.stages() > 1) groups_.pp->broadcast(a.h, groups_.stages() - 1);
  const int64_t q = inner();
  const Tensor kv(a.qkv.data, activation_, {batch.rows, 2 * q});  // the same memory, packed
  for (size_t i = 0; i < decoder_.size(); ++i) {
    decoder_[i].cross.kv(backend_, kv, a.h);
    backend_.rope_and_cache(a.attended, kv.columns(0, q), kv.columns(q, q), {}, batch, kCross, both_ways,
                            cache(i, kCross));
  }
}

Tensor T5::decode(const BatchView& batch) {
  arena_.release(0);
  Activations a = take(arena_, batch.rows, batch.logits);
  enter(a, batch);
  const AttentionShape back = shape(&decoder_bias_, true), across = shape(nullptr, false);
  const Tensor query(a.qkv.data, activation_, {batch.rows, inner()});
  for (size_t i = 0; i < decoder_.size(); ++i) {
    const DecoderLayer& layer = decoder_[i];
    self_attention(layer.self, a, batch, kSelf, cache(i, kSelf), back);
    norm(layer.cross.norm, a);
    layer.cross.qkv(backend_, query, a.h);
    backend_.attention(a.attended, query, batch, kCross, across, cache(i, kCross));
    layer.cross.o(backend_, groups_, a.out, a.attended);
    reduce(groups_, a.out);
    a.pending = a.out;
    mlp(layer.mlp, a);
  }
  add_pending(a);
  if (!groups_.last_stage()) {
    groups_.pp->send(a.x, groups_.stage() + 1);
    return {};
  }
  if (batch.logits == 0) return Tensor(nullptr, DType::kF32, {0, c_.vocab});
  backend_.gather_rows(a.last, a.x, batch.logits_rows);
  decoder_norm_(backend_, a.last_norm, a.last);
  return head_(backend_, groups_, arena_, a.last_norm);
}

Tensor T5::forward(const BatchView& batch) {
  if (batch.encoder != nullptr) encode(*batch.encoder);
  if (batch.rows > 0) return decode(batch);
  return groups_.last_stage() ? Tensor(nullptr, DType::kF32, {0, c_.vocab}) : Tensor{};
}

const RegisterFamily kRegistered({"t5",
                                  {"T5ForConditionalGeneration"},
                                  "",
                                  {{kEmbed}, kHead, "", {"relative_attention_bias.weight"}},
                                  describe_t5,
                                  [](LoadContext& context) -> std::unique_ptr<Model> {
                                    return std::make_unique<T5>(context, read_t5(context.config));
                                  }});
}  // namespace
}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Layouts without a reference of their own, made of checkpoints that have one and whose arithmetic is the same.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/cpu_backend.h"
#include "model/run_model.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
using test::Golden;
using Floats = std::vector<float>;
using nlohmann::json;

Floats joined(std::initializer_list<Floats> parts) {
  Floats out;
  for (const Floats& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

// One layer as Megatron has it, but for the order of q, k and v; a bias that is empty becomes zeros.
struct Layer {
  Floats norm1, norm1_bias, q, q_bias, k, k_bias, v, v_bias, o, o_bias;
  Floats norm2, norm2_bias, gate, up, up_bias, down, down_bias;
};

// A Megatron checkpoint of the weights of a golden case.
class Megatron {
 public:
  explicit Megatron(const std::string& name)
      : golden(test::read_golden(name)),
        old(json::parse(read_file(golden.folder / "config.json"))),
        from_(Checkpoint::open(golden.folder, "")) {
    config = {
        {"architectures", {"MegatronGPTModel"}},        {"torch_dtype", "float32"},  {"vocab_size", old["vocab_size"]},
        {"share_embeddings_and_output_weights", false}, {"layernorm_epsilon", 1e-5}, {"num_layers", 2}};
  }

  Floats get(const std::string& name) const { return test::read_floats(from_, name); }
  // Of a matrix that is stored [inputs, outputs]: outputs `first` to `first` + n, as rows.
  Floats turned(const std::string& name, size_t first, size_t n) const {
    const Floats all = get(name);
    const size_t outputs = static_cast<size_t>(from_.find(name)->shape[1]), inputs = all.size() / outputs;
    Floats out;
    for (size_t r = first; r < first + n; ++r)
      for (size_t c = 0; c < inputs; ++c) out.push_back(all[c * outputs + r]);
    return out;
  }
  void put(const std::string& name, size_t rows, const Floats& values) {
    std::vector<int64_t> shape{static_cast<int64_t>(rows)};
    if (values.size() != rows) shape.push_back(static_cast<int64_t>(values.size() / rows));
    tensors_.push_back({"model.language_model." + name, "F32", shape,
                        std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))});
  }
  void ends(const Floats& words, const Floats& positions, const Floats& norm, const Floats& norm_bias,
            const Floats& head) {
    const size_t vocab = old["vocab_size"], h = words.size() / vocab;
    config["hidden_size"] = width_ = h;
    put("embedding.word_embeddings.weight", vocab, words);
    put("output_layer.weight", vocab, head);
    if (!positions.empty()) put("embedding.position_embeddings.weight", positions.size() / h, positions);
    config["max_position_embeddings"] = positions.empty() ? 160 : positions.size() / h;
    put_norm("encoder.final_layernorm", norm, norm_bias);
  }
  // `groups` heads of keys. With `apart`, the gate has a matrix of its own.
  void layer(int i, const Layer& l, size_t groups, bool apart = true) {
    const std::string at = fmt::format("encoder.layers.{}.", i);
    put_norm(at + "input_layernorm", l.norm1, l.norm1_bias);
    put_norm(at + "post_attention_layernorm", l.norm2, l.norm2_bias);
    const auto grouped = [&](const Floats& q, const Floats& k, const Floats& v) {
      Floats out;
      for (size_t g = 0; g < groups; ++g)
        for (const Floats* part : {&q, &k, &v})
          out.insert(out.end(), part->begin() + static_cast<std::ptrdiff_t>(g * part->size() / groups),
                     part->begin() + static_cast<std::ptrdiff_t>((g + 1) * part->size() / groups));
      return out;
    };
    const size_t ff = l.down.size() / width_;
    config["ffn_hidden_size"] = ff;
    config["bias"] = !l.up_bias.empty();
    put_linear(at + "self_attention.query_key_value", grouped(l.q, l.k, l.v), width_,
               grouped(l.q_bias, l.k_bias, l.v_bias));
    put_linear(at + "self_attention.dense", l.o, l.o.size() / width_, l.o_bias);
    if (!l.gate.empty() && apart) {
      put_linear(at + "mlp.dense_h_to_4h", l.gate, width_, {});
      put_linear(at + "mlp.dense_h_to_4h_2", l.up, width_, {});
    } else {
      put_linear(at + "mlp.dense_h_to_4h", joined({l.gate, l.up}), width_, l.up_bias);
    }
    put_linear(at + "mlp.dense_4h_to_h", l.down, ff, l.down_bias);
  }
  // The reference's logits and tokens, split over `tp` ranks or `pp` stages.
  void check(const json& more) {
    json whole = config;
    whole.update(more);
    CAPTURE(whole.dump());
    const test::TemporaryFolder folder;
    folder.write("config.json", whole.dump());
    folder.write("model.safetensors", test::safetensors_bytes(tensors_));
    Golden reference = golden;
    reference.folder = folder.path();
    for (const auto& layout : {std::pair{1, 1}, std::pair{3, 1}, std::pair{1, 2}}) {
      const int tp = layout.first, pp = layout.second;
      CAPTURE(tp);
      const test::Outcome last = test::run_ranks(reference, tp, pp, "float32", test::cpu_backend).back();
      CHECK(test::max_difference(last.logits, golden.logits) <= 1e-4);
      CHECK(last.greedy == golden.greedy);
    }
  }

  const Golden golden;
  const json old;
  json config;
  bool norm_bias = true;

 private:
  void put_norm(const std::string& name, const Floats& weight, const Floats& bias) {
    put(name + ".weight", width_, weight.empty() ? Floats(width_, 1.0f) : weight);
    if (norm_bias) put(name + ".bias", width_, bias.empty() ? Floats(width_) : bias);
  }
  void put_linear(const std::string& name, const Floats& weight, size_t inputs, const Floats& bias) {
    put(name + ".weight", weight.size() / inputs, weight);
    if (!bias.empty()) put(name + ".bias", bias.size(), bias);
  }

  const Checkpoint from_;
  std::vector<test::NamedTensor> tensors_;
  size_t width_ = 0;
};

// `offset` is what norm weights stand for beyond what the file says; `scale` multiplies embeddings.
void put_llama(Megatron& m, bool apart, float offset = 0, float scale = 1) {
  const auto norm = [&](const std::string& name) {
    Floats w = m.get(name + ".weight");
    for (float& v : w) v += offset;
    return w;
  };
  m.norm_bias = false;
  Floats words = m.get("model.embed_tokens.weight");
  const Floats head = scale == 1 ? m.get("lm_head.weight") : words;
  for (float& v : words) v *= scale;
  m.ends(words, {}, norm("model.norm"), {}, head);
  for (int i = 0; i < 2; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    Layer l;
    l.norm1 = norm(at + "input_layernorm"), l.norm2 = norm(at + "post_attention_layernorm");
    l.q = m.get(at + "self_attn.q_proj.weight"), l.k = m.get(at + "self_attn.k_proj.weight");
    l.v = m.get(at + "self_attn.v_proj.weight"), l.o = m.get(at + "self_attn.o_proj.weight");
    l.gate = m.get(at + "mlp.gate_proj.weight"), l.up = m.get(at + "mlp.up_proj.weight");
    l.down = m.get(at + "mlp.down_proj.weight");
    m.layer(i, l, m.old["num_key_value_heads"], apart);
  }
  m.config.update({{"normalization", "rmsnorm"},
                   {"position_embedding_type", "rope"},
                   {"rotary_base", m.old["rope_theta"]},
                   {"kv_channels", m.old["head_dim"]},
                   {"num_attention_heads", m.old["num_attention_heads"]},
                   {"num_query_groups", m.old["num_key_value_heads"]},
                   {"layernorm_epsilon", m.old["rms_norm_eps"]}});
}

void put_opt(Megatron& m) {
  const bool plain = !m.old["enable_bias"], affine = m.old["layer_norm_elementwise_affine"];
  const auto bias = [&](const std::string& name) { return plain ? Floats{} : m.get(name + ".bias"); };
  const auto norm = [&](const std::string& name) { return affine ? m.get(name) : Floats{}; };
  const std::string base = "model.decoder.";
  Floats positions = m.get(base + "embed_positions.weight");
  const Floats words = m.get(base + "embed_tokens.weight");
  const size_t h = m.old["hidden_size"];
  positions.erase(positions.begin(), positions.begin() + static_cast<std::ptrdiff_t>(2 * h));
  m.ends(words, positions, norm(base + "final_layer_norm.weight"), norm(base + "final_layer_norm.bias"),
         plain ? m.get("lm_head.weight") : words);
  for (int i = 0; i < 2; ++i) {
    const std::string at = fmt::format("{}layers.{}.", base, i), attn = at + "self_attn.";
    m.layer(i,
            {norm(at + "self_attn_layer_norm.weight"), norm(at + "self_attn_layer_norm.bias"),
             m.get(attn + "q_proj.weight"), bias(attn + "q_proj"), m.get(attn + "k_proj.weight"), bias(attn + "k_proj"),
             m.get(attn + "v_proj.weight"), bias(attn + "v_proj"), m.get(attn + "out_proj.weight"),
             bias(attn + "out_proj"), norm(at + "final_layer_norm.weight"), norm(at + "final_layer_norm.bias"),
             Floats{}, m.get(at + "fc1.weight"), bias(at + "fc1"), m.get(at + "fc2.weight"), bias(at + "fc2")},
            m.old["num_attention_heads"]);
  }
  m.config["num_attention_heads"] = m.old["num_attention_heads"];
}
}  // namespace

TEST_CASE("Megatron's plain norms and both ways to its tanh curve are GPT-2's") {
  Megatron m("gpt2/plain");
  const size_t h = m.old["n_embd"], heads = m.old["n_head"];
  const Floats words = m.get("transformer.wte.weight");
  m.ends(words, m.get("transformer.wpe.weight"), m.get("transformer.ln_f.weight"), m.get("transformer.ln_f.bias"),
         words);
  for (int i = 0; i < 2; ++i) {
    const std::string at = fmt::format("transformer.h.{}.", i);
    const auto third = [&](const Floats& all, size_t part) {
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(part * h);
      return Floats(from, from + static_cast<std::ptrdiff_t>(h));
    };
    const Floats bias = m.get(at + "attn.c_attn.bias");
    const std::string fused = at + "attn.c_attn.weight";
    m.layer(i,
            {m.get(at + "ln_1.weight"), m.get(at + "ln_1.bias"), m.turned(fused, 0, h), third(bias, 0),
             m.turned(fused, h, h), third(bias, 1), m.turned(fused, 2 * h, h), third(bias, 2),
             m.turned(at + "attn.c_proj.weight", 0, h), m.get(at + "attn.c_proj.bias"), m.get(at + "ln_2.weight"),
             m.get(at + "ln_2.bias"), Floats{}, m.turned(at + "mlp.c_fc.weight", 0, 4 * h), m.get(at + "mlp.c_fc.bias"),
             m.turned(at + "mlp.c_proj.weight", 0, h), m.get(at + "mlp.c_proj.bias")},
            heads);
  }
  m.config["num_attention_heads"] = heads;
  m.check(json::object());
  m.check({{"bias_activation_fusion", false}, {"openai_gelu", true}});
}

TEST_CASE("Megatron's relu and erf curve, with and without biases, are OPT's") {
  Megatron relu("opt/pre_norm"), bare("opt/bare");
  put_opt(relu);
  relu.check({{"activation", "relu"}});
  put_opt(bare);
  bare.check({{"bias_activation_fusion", false}});
}

TEST_CASE("Megatron's gates, whole and apart, and its stretched rotation are Llama's and Gemma's") {
  Megatron llama("llama1"), linear("rope_linear"), whole("gemma/gemma1"), apart("gemma/gemma1");
  put_llama(llama, true);
  llama.check({{"activation", "swiglu"}});
  put_llama(linear, false);
  linear.check({{"activation", "fast-swiglu"}, {"seq_len_interpolation_factor", 4.0}});
  const float scale = std::sqrt(32.0f);
  put_llama(whole, false, 1, scale);
  whole.check({{"activation", "fast-geglu"}});
  put_llama(apart, true, 1, scale);
  apart.check({{"activation", "geglu"}});
}

TEST_CASE("Megatron's ALiBi is BLOOM's behind embeddings that are normed already") {
  Megatron m("bloom/plain");
  const Floats words = m.get("transformer.word_embeddings.weight");
  const Floats weight = m.get("transformer.word_embeddings_layernorm.weight");
  const Floats bias = m.get("transformer.word_embeddings_layernorm.bias");
  const size_t h = weight.size(), heads = m.old["n_head"];
  Floats normed = words;
  for (size_t r = 0; r < words.size(); r += h) {
    double mean = 0, square = 0;
    for (size_t c = 0; c < h; ++c) mean += static_cast<double>(words[r + c]) / static_cast<double>(h);
    for (size_t c = 0; c < h; ++c) square += std::pow(static_cast<double>(words[r + c]) - mean, 2);
    const double scale = 1 / std::sqrt(square / static_cast<double>(h) + 1e-5);
    for (size_t c = 0; c < h; ++c)
      normed[r + c] = static_cast<float>((static_cast<double>(words[r + c]) - mean) * scale) * weight[c] + bias[c];
  }
  m.ends(normed, {}, m.get("transformer.ln_f.weight"), m.get("transformer.ln_f.bias"), words);
  for (int i = 0; i < 2; ++i) {
    const std::string at = fmt::format("transformer.h.{}.", i);
    const auto pair = [&](const std::string& name) {
      return std::pair{m.get(at + name + ".weight"), m.get(at + name + ".bias")};
    };
    Layer l;
    std::tie(l.norm1, l.norm1_bias) = pair("input_layernorm");
    std::tie(l.q, l.q_bias) = pair("self_attention.query_key_value");  // in the order that is wanted
    std::tie(l.o, l.o_bias) = pair("self_attention.dense");
    std::tie(l.norm2, l.norm2_bias) = pair("post_attention_layernorm");
    std::tie(l.up, l.up_bias) = pair("mlp.dense_h_to_4h");
    std::tie(l.down, l.down_bias) = pair("mlp.dense_4h_to_h");
    m.layer(i, l, heads);
  }
  m.config["num_attention_heads"] = heads;
  m.check({{"position_embedding_type", "alibi"}});
}

TEST_CASE("Where a tied checkpoint holds the head alone it is the embedding too") {
  for (const std::string name : {"llama32_tied", "gpt2/plain", "bloom/plain", "falcon/multi_query", "t5/tied"}) {
    CAPTURE(name);
    Golden golden = test::read_golden(name);
    const Checkpoint from = Checkpoint::open(golden.folder, "");
    std::vector<test::NamedTensor> tensors;
    for (const CheckpointTensor& tensor : from.tensors()) {
      const Floats values = test::read_floats(from, tensor.name);
      const bool table = tensor.name.ends_with("embed_tokens.weight") || tensor.name.ends_with("wte.weight") ||
                         tensor.name.ends_with("word_embeddings.weight") || tensor.name == "shared.weight";
      tensors.push_back({table ? "lm_head.weight" : tensor.name, "F32", tensor.shape,
                         std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))});
    }
    const test::TemporaryFolder folder;
    folder.write("model.safetensors", test::safetensors_bytes(tensors));
    std::filesystem::copy_file(golden.folder / "config.json", folder.path() / "config.json");
    golden.folder = folder.path();
    const test::Outcome last = test::run_ranks(golden, 2, 1, "float32", test::cpu_backend).back();
    CHECK(test::max_difference(last.logits, golden.logits) <= 1e-4);
    CHECK(last.greedy == golden.greedy);
  }
}

TEST_CASE("Old Falcon repositories are read by their own names") {
  for (const char* name : {"falcon/multi_query", "falcon/new_decoder", "falcon/alibi"}) {
    CAPTURE(name);
    Golden golden = test::read_golden(name);
    json config = json::parse(read_file(golden.folder / "config.json"));
    const json layers = config["num_hidden_layers"], heads = config["num_attention_heads"], kv = config["num_kv_heads"];
    const json width = config["hidden_size"];
    for (const char* key : {"num_hidden_layers", "num_attention_heads", "num_kv_heads", "ffn_hidden_size"})
      config.erase(key);
    config.update({{"n_layer", layers}, {"n_head", heads}, {"n_head_kv", kv}});
    config.update({{"model_type", "RefinedWeb"}, {"architectures", {"RWForCausalLM"}}, {"n_embed", width}});
    const test::TemporaryFolder folder;
    folder.write("config.json", config.dump());
    std::filesystem::copy_file(golden.folder / "model.safetensors", folder.path() / "model.safetensors");
    golden.folder = folder.path();
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = test::load_golden(golden, "float32", *backend, groups);
    const test::Outcome outcome = test::run_golden(*model, *backend, golden);
    CHECK(test::max_difference(outcome.logits, golden.logits) <= 1e-4);
    CHECK(outcome.greedy == golden.greedy);
  }
}

}  // namespace sluice

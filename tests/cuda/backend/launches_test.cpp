// SPDX-License-Identifier: Apache-2.0
// Kernels of a decode step, and what folding a norm into the product after it does to the logits.
#include <nlohmann/json.hpp>

#include "cuda/backend/twin.h"
#include "model/run_model.h"
#include "runtime.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {

// A Llama of two layers whose heads are a tensor core's.
class SmallLlama {
 public:
  static constexpr int64_t kVocab = 40, kWidth = 128, kMiddle = 192, kLayers = 2;

  explicit SmallLlama(const std::string& dtype) {
    std::mt19937 random(12);
    std::vector<test::NamedTensor> tensors;
    const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
      int64_t n = 1;
      for (const int64_t d : shape) n *= d;
      std::vector<float> values = test::normal(random, n, DType::kF32, shape.size() == 1 ? 0.5f : 0.09f);
      if (shape.size() == 1)
        for (float& v : values) v += 1.0f;
      tensors.push_back(
          {name, "F32", shape, std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size())});
    };
    add("model.embed_tokens.weight", {kVocab, kWidth});
    add("lm_head.weight", {kVocab, kWidth});
    add("model.norm.weight", {kWidth});
    for (int64_t i = 0; i < kLayers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", {kWidth});
      add(layer + "post_attention_layernorm.weight", {kWidth});
      for (const char* name : {"q", "o"}) add(layer + "self_attn." + name + "_proj.weight", {kWidth, kWidth});
      for (const char* name : {"k", "v"}) add(layer + "self_attn." + name + "_proj.weight", {64, kWidth});
      for (const char* name : {"gate", "up"}) add(layer + "mlp." + name + "_proj.weight", {kMiddle, kWidth});
      add(layer + "mlp.down_proj.weight", {kWidth, kMiddle});
    }
    const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                   {"vocab_size", kVocab},
                                   {"hidden_size", kWidth},
                                   {"intermediate_size", kMiddle},
                                   {"num_hidden_layers", kLayers},
                                   {"num_attention_heads", 2},
                                   {"num_key_value_heads", 1},
                                   {"max_position_embeddings", 256},
                                   {"rms_norm_eps", 1e-5},
                                   {"torch_dtype", dtype}};
    folder_.write("config.json", config.dump());
    folder_.write("model.safetensors", test::safetensors_bytes(tensors));
    source.folder = folder_.path();
    source.dtype = dtype;
    source.quiet = true;
  }
  ModelSource source;

 private:
  test::TemporaryFolder folder_;
};

// Kernels of a step with so many sequences of a row each.
uint64_t launches_of(Model& model, Backend& backend, int64_t rows) {
  RunLimits limits;
  limits.block_size = 16;
  limits.blocks = {rows + 1};
  limits.max_rows = limits.max_logits = limits.max_seqs = rows;
  limits.max_context = 16;
  model.allocate(limits);
  std::vector<Buffer> held;
  const auto upload = [&](const std::vector<int32_t>& values) {
    held.push_back(backend.allocate(values.size() * sizeof(int32_t)));
    const Tensor out = held.back().view(DType::kI32, {static_cast<int64_t>(values.size())});
    backend.copy_in(out, values.data());
    return out;
  };
  std::vector<int32_t> count, slots, ones(static_cast<size_t>(rows), 1), zeros(static_cast<size_t>(rows), 0);
  for (int32_t i = 0; i <= rows; ++i) count.push_back(i);
  const std::vector<int32_t> each(count.begin(), count.end() - 1);
  for (const int32_t i : each) slots.push_back(16 * i);
  BatchView batch;
  batch.rows = batch.seqs = batch.logits = rows;
  batch.tokens = batch.positions = upload(zeros);
  batch.first_row = upload(count);
  batch.context = batch.lengths = upload(ones);
  batch.logits_rows = upload(each);
  batch.cache[0].slots = upload(slots);
  batch.cache[0].block_table = upload(each).reshaped({rows, 1});
  batch.decode_only = true;
  const uint64_t before = emulation::launches();
  const Tensor logits = model.forward(batch);
  std::vector<float> out(static_cast<size_t>(logits.elements()));
  backend.copy_out(out.data(), logits);
  CHECK(std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v); }));
  return emulation::launches() - before;
}

}  // namespace

TEST_CASE("a decode step launches at most seven kernels a layer, for every number of sequences") {
  for (const std::string dtype : {"bfloat16", "float16"}) {
    const SmallLlama files(dtype);
    for (const bool deterministic : {false, true}) {
      for (const int64_t rows : {1, 2, 4, 8, 16, 24, 64, 128, 256}) {
        CAPTURE(dtype);
        CAPTURE(deterministic);
        CAPTURE(rows);
        const auto backend = test::make_cuda(deterministic);
        CHECK(backend->decode_bucket(rows) == rows);
        Groups groups = solo_groups();
        const auto model = load_model(files.source, *backend, groups);
        const uint64_t all = launches_of(*model, *backend, rows), each = rows <= 8 ? 5 : 7;
        CAPTURE(all);
        // Beside the layers: the embedding, the rows that are wanted, the last norm and the head.
        CHECK(all == each * SmallLlama::kLayers + 4);
      }
    }
  }
}

TEST_CASE("a norm that is folded into its product leaves the logits as near to the exact ones") {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 60; ++i) prompt.push_back(i * 7 % SmallLlama::kVocab);
  const auto logits = [&](const std::string& dtype, Backend& backend) {
    const SmallLlama files(dtype);
    Groups groups = solo_groups();
    const auto model = load_model(files.source, backend, groups);
    return test::ModelRunner(*model, backend).step({{0, prompt}});
  };
  const auto cpu = make_cpu_backend({});
  const std::vector<float> exact = logits("float32", *cpu);
  for (const std::string dtype : {"bfloat16", "float16"}) {
    const auto error = [&](bool deterministic) {  // which folds nothing
      const auto backend = test::make_cuda(deterministic);
      const std::vector<float> got = logits(dtype, *backend);
      double sum = 0, size = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        const double difference = static_cast<double>(got[i]) - static_cast<double>(exact[i]);
        sum += difference * difference, size += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
      }
      return std::sqrt(sum / size);
    };
    const double folded = error(false), apart = error(true);
    CAPTURE(dtype);
    CAPTURE(folded);
    CAPTURE(apart);
    CHECK(folded < 1.2 * apart);
  }
}

}  // namespace sluice

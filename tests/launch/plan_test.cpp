// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"

using namespace sluice;
namespace fs = std::filesystem;

namespace {
// Sizes as read from a config.json of these lines.
ModelInfo info_of(const std::string& config) {
  char name[] = "/tmp/sluice-plan-XXXXXX";
  const fs::path folder = ::mkdtemp(name);
  std::ofstream(folder / "config.json") << config;
  ModelSource source;
  source.folder = folder;
  const ModelInfo info = read_model_info(source);
  fs::remove_all(folder);
  return info;
}

std::string llama2(int width, int ff, int layers, int heads, int kv_heads) {
  return R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", "vocab_size": 32000,
             "max_position_embeddings": 4096, "hidden_size": )" +
         std::to_string(width) + R"(, "intermediate_size": )" + std::to_string(ff) + R"(, "num_hidden_layers": )" +
         std::to_string(layers) + R"(, "num_attention_heads": )" + std::to_string(heads) +
         R"(, "num_key_value_heads": )" + std::to_string(kv_heads) + "}";
}

PlanRequest request_for(const std::string& config) {
  PlanRequest request;
  request.model = info_of(config);
  request.context = std::min<int64_t>(request.model.max_positions, 4096);
  return request;
}

// What the founding table confirms: it fits, and no more GPUs are asked for.
void confirm(const std::string& config, const char* gpu, int gpus) {
  const auto fit = smallest_fit(request_for(config), find_gpu(gpu));
  REQUIRE(fit.has_value());
  CHECK(fit->ranks() <= gpus);
  CHECK(fit->cache_tokens >= 1);
}
}  // namespace

TEST_CASE("Llama 2 fits where clusters have confirmed it") {
  confirm(llama2(8192, 28672, 80, 64, 8), "a100:80", 2);
  confirm(llama2(5120, 13824, 40, 40, 40), "a100:80", 1);
  confirm(llama2(4096, 11008, 32, 32, 32), "a100:80/3g.40gb", 1);
}

TEST_CASE("Falcon and FLAN-T5 fit where clusters have confirmed them") {
  const std::string falcon = R"({"architectures": ["FalconForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 65024,
                                 "alibi": false, "bias": false, "parallel_attn": true, )";
  confirm(falcon + R"("hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
                      "new_decoder_architecture": true})",
          "a100:80", 2);
  confirm(falcon + R"("hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": true})",
          "a100:80/3g.40gb", 1);
  for (const char* dtype : {"float32", "bfloat16"}) {
    confirm(R"({"architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 4096, "d_kv": 64,
                "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64,
                "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "decoder_start_token_id": 0,
                "pad_token_id": 0, "eos_token_id": 1, "torch_dtype": ")" +
                std::string(dtype) + "\"}",
            "a100:80", 1);
  }
}

TEST_CASE("models without an encoder hold half the cache of those whose prompts have one of their own") {
  const auto tokens = [](const std::string& config) {
    const PlanRequest request = request_for(config);
    const Fit fit = layout_fit(request, find_gpu("a100:80"), 1, 1);
    const double bytes =
        2.0 * static_cast<double>(request.model.n_layers * request.model.n_kv_heads * request.model.head_dim) * 2;
    return static_cast<double>(fit.cache_tokens) * bytes / (fit.room_gib * (1 << 30));
  };
  CHECK(tokens(llama2(4096, 11008, 32, 32, 32)) == doctest::Approx(1.0).epsilon(0.001));
  CHECK(tokens(R"({"architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 2048, "d_kv": 64,
                   "d_ff": 5120, "num_layers": 24, "num_heads": 32, "feed_forward_proj": "gated-gelu",
                   "decoder_start_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"})") ==
        doctest::Approx(0.5).epsilon(0.001));
}

TEST_CASE("weights of a rank are its share of the layers, the table and the head") {
  PlanRequest request = request_for(llama2(8192, 28672, 80, 64, 8));
  const Fit one = layout_fit(request, find_gpu("a100:80"), 1, 1), two = layout_fit(request, find_gpu("a100:80"), 2, 1);
  CHECK(one.weights_gib ==
        doctest::Approx(static_cast<double>(request.model.parameters) * 2 / (1 << 30)).epsilon(0.001));
  CHECK(two.weights_gib == doctest::Approx(one.weights_gib / 2));
  CHECK(one.room_gib < 0);
  CHECK(two.room_gib > 0);
  CHECK(two.cache_tokens > 4096);
  // 2 layers x 80 x 8 heads x 128 x 2 bytes = 320 KiB per token, half of it on each rank.
  CHECK(two.cache_tokens == doctest::Approx(two.room_gib * (1 << 20) / 160).epsilon(0.001));
}

TEST_CASE("what ranks do not divide is counted whole on each") {
  PlanRequest request = request_for(llama2(8192, 28672, 80, 64, 8));
  const auto fixed = [&](int64_t rows) {
    request.step_rows = rows;
    return layout_fit(request, find_gpu("a100:80"), 8, 1).fixed_gib;
  };
  CHECK(fixed(8192) - fixed(0) >= 4.0 * 8192 * 8192 * 2 / (1 << 30));  // residual stream and what goes around it
  const double wide = fixed(512);
  request.bytes_per_weight = 1;
  CHECK(fixed(512) > wide);  // narrow weights are widened on their way
}

TEST_CASE("more sequences or a longer context ask for more GPUs") {
  PlanRequest request = request_for(llama2(4096, 11008, 32, 32, 32));
  CHECK(smallest_fit(request, find_gpu("a10"))->ranks() == 1);
  request.sequences = 64;
  CHECK(smallest_fit(request, find_gpu("a10"))->ranks() > 1);
  request.gpus_per_node = 2;
  const auto fit = smallest_fit(request, find_gpu("a10"));
  CHECK(fit->tp == 2);
  CHECK(fit->pp > 1);
}

TEST_CASE("impossible layouts are refused with the reason") {
  const PlanRequest request = request_for(llama2(4096, 11008, 32, 32, 32));
  CHECK_THROWS_WITH_AS(layout_fit(request, find_gpu("a100:40/3g.20gb"), 2, 1), doctest::Contains("MIG slice"), Error);
  CHECK_THROWS_WITH_AS(layout_fit(request, find_gpu("h100"), 1, 33), doctest::Contains("32 layers"), Error);
  CHECK_THROWS_WITH_AS(layout_fit(request, find_gpu("h100"), 64, 1), doctest::Contains("32 heads"), Error);
  CHECK_FALSE(smallest_fit(request, find_gpu("t4")));
  CHECK_FALSE(smallest_fit(request_for(llama2(8192, 28672, 80, 64, 8)), find_gpu("a100:40/1g.5gb")));
}

TEST_CASE("GPUs are known by the names that people and schedulers use") {
  CHECK(find_gpu("A100-80GB").name == "a100:80");
  CHECK(find_gpu("a100").name == "a100:40");
  CHECK(find_gpu("a100l").name == "a100:80");
  CHECK(find_gpu("a100l.3").name == "a100:80/3g.40gb");
  CHECK(find_gpu("h200").memory_gib > 130);
  CHECK(find_gpu("mi300x:192").memory_gib == doctest::Approx(192));
  CHECK_THROWS_WITH_AS(find_gpu("abacus"), doctest::Contains("NAME:GIB"), Error);
}

TEST_CASE("the line to submit names tasks, GPUs and layout") {
  const PlanRequest request = request_for(llama2(8192, 28672, 80, 64, 8));
  const Fit fit = *smallest_fit(request, find_gpu("a100:80"));
  CHECK(submit_line(request, fit, "org/model") ==
        "sbatch --ntasks-per-node=2 --gpus-per-node=a100l:2 --cpus-per-task=6 --mem=24G "
        "--export=ALL,MODEL_ID=org/model,TP=2,PP=1,MAX_TOTAL_TOKENS=4096 slurm/serve.sh");
}

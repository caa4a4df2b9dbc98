// SPDX-License-Identifier: Apache-2.0
// What is known, what is refused and which numbers a model reports, before any weight is read.
#include "model/family.h"

#include <doctest/doctest.h>

#include <fstream>

#include "base/error.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
std::string refusal(const ModelSource& source) {
  try {
    read_model_info(source);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was refused";
}

// A folder with a config.json of a small Llama, changed by `more` (", key: value").
struct Folder {
  explicit Folder(const std::string& more, const std::string& architecture = "LlamaForCausalLM") {
    folder.write(
        "config.json",
        R"({"architectures": [")" + architecture +
            R"("], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                                    "vocab_size": 256, "torch_dtype": "float32", "eos_token_id": 2)" +
            more + "}");
    source.folder = folder.path();
    source.quiet = true;
  }
  test::TemporaryFolder folder;
  ModelSource source;
};

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) == std::string::npos) MESSAGE(text);
  return text.find(part) != std::string::npos;
}
}  // namespace

TEST_CASE("Named shapes have the parameters of the published models") {
  const std::pair<const char*, int64_t> published[] = {{"llama-3.2-1b", 1235814400},
                                                       {"llama-3.2-3b", 3212749824},
                                                       {"llama-3-8b", 8030261248},
                                                       {"llama-3-70b", 70553706496},
                                                       {"llama-2-7b", 6738415616},
                                                       {"tinyllama-1.1b", 1100048384},
                                                       {"qwen2-0.5b", 494032768},
                                                       {"mistral-7b", 7241732096},
                                                       {"gpt2", 124439808},
                                                       {"gpt2-xl", 1557611200},
                                                       {"bloom-560m", 559214592},
                                                       {"bloom-7b1", 7069016064},
                                                       {"bloom-176b", 176247271424},
                                                       {"falcon-7b", 6921720704},
                                                       {"falcon-40b", 41303293952},
                                                       {"falcon-180b", 178557088768},
                                                       {"falcon-rw-1b", 1311625216},
                                                       {"starcoder2-3b", 3030371328},
                                                       {"pythia-160m", 162322944},
                                                       {"pythia-1.4b", 1414647808},
                                                       {"gpt-neox-20b", 20554567680},
                                                       {"opt-125m", 125239296},
                                                       {"opt-350m", 331196416},
                                                       {"opt-6.7b", 6658473984},
                                                       {"megatron-gpt-20b", 20256221184},
                                                       {"flan-t5-small", 76961152},
                                                       {"flan-t5-xl", 2849757184},
                                                       {"flan-t5-xxl", 11135332352},
                                                       {"mixtral-8x7b", 46702792704},
                                                       {"mixtral-8x22b", 140630071296},
                                                       {"gpt-oss-20b", 20914757184},
                                                       {"qwen3-0.6b", 596049920},
                                                       {"qwen3-4b", 4022468096},
                                                       {"qwen3-8b", 8190735360},
                                                       {"qwen3-30b-a3b", 30532122624},
                                                       {"qwen1.5-moe-a2.7b", 14315784192},
                                                       {"gemma-2b", 2506172416},
                                                       {"gemma-7b", 8537680896},
                                                       {"gemma-2-2b", 2614341888},
                                                       {"gemma-2-9b", 9241705984},
                                                       {"gemma-2-27b", 27227128320},
                                                       {"gemma-3-1b", 999885952},
                                                       {"gemma-3-4b", 3880263168},
                                                       {"gemma-3-27b", 27009346304},
                                                       {"phi-1.5", 1418270720},
                                                       {"phi-2", 2779683840},
                                                       {"phi-3-mini", 3821079552},
                                                       {"phi-4", 14659507200}};
  constexpr size_t kForTests = 1;  // llama-tiny
  CHECK(random_shapes().size() == std::size(published) + kForTests);
  for (const auto& shape : published) {
    const std::string name = shape.first;
    const int64_t parameters = shape.second;
    ModelSource source;
    source.random_shape = name;
    CAPTURE(name);
    CHECK(read_model_info(source).parameters == parameters);
  }
}

TEST_CASE("Linear parameters are the products of the layers and the head") {
  ModelSource source;
  source.random_shape = "llama-3-8b";
  const ModelInfo info = read_model_info(source);
  CHECK(info.linear_parameters == 32 * (4096LL * 4096 * 2 + 2LL * 4096 * 1024 + 3LL * 4096 * 14336) + 128256LL * 4096);
  CHECK(info.n_kv_heads == 8);
  CHECK(info.max_positions == 8192);
  CHECK(info.dtype == "bfloat16");
}

TEST_CASE("An unknown architecture is refused with the list of known ones") {
  const std::string unknown = refusal(Folder("", "MambaForCausalLM").source);
  CHECK(contains(unknown, "the architecture MambaForCausalLM is not supported, expected one of "));
  for (const char* known : {"GPT2LMHeadModel, GPT2Model, ", "LlamaForCausalLM, LlamaModel, ",
                            "MistralForCausalLM, MistralModel, ", "Qwen2ForCausalLM, Qwen2Model"})
    CHECK(contains(unknown, known));
  Folder none("");
  none.folder.write("config.json", "{}");
  CHECK(contains(refusal(none.source), "it names no architecture"));
  ModelSource shape;
  shape.random_shape = "llama-9";
  CHECK(contains(refusal(shape), "--random-init llama-9 is unknown, expected one of llama-3.2-1b"));
}

TEST_CASE("What would change the computation is refused by name") {
  CHECK(contains(refusal(Folder(R"(, "quantization_config": {"quant_method": "quanto"})").source),
                 "quant_method is \"quanto\""));
  CHECK(contains(
      refusal(Folder(R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"})")
                  .source),
      "format is \"pack-quantized\""));
  CHECK(contains(refusal(Folder(R"(, "hidden_act": "quick_gelu")").source),
                 "hidden_act is \"quick_gelu\", expected silu"));
  CHECK(contains(refusal(Folder(R"(, "rope_scaling": {"rope_type": "mrope", "factor": 4})").source),
                 "rope_type is \"mrope\""));
  CHECK(contains(refusal(Folder(R"(, "partial_rotary_factor": 0.5)").source), "partial_rotary_factor is 0.5"));
  CHECK(contains(refusal(Folder(R"(, "num_key_value_heads": 3)").source), "a divisor of num_attention_heads (4)"));
  CHECK(contains(refusal(Folder(R"(, "head_dim": 5)").source), "head_dim is 5, expected an even number"));
  CHECK(contains(refusal(Folder(R"(, "hidden_size": 0)").source), "hidden_size is 0"));
  CHECK(contains(
      refusal(
          Folder(
              R"(, "num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 4, "layer_types": ["full_attention"])",
              "Qwen2ForCausalLM")
              .source),
      "2 entries, one per layer"));
  CHECK(contains(
      refusal(
          Folder(
              R"(, "num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 4, "layer_types": ["full_attention", "mamba"])",
              "Qwen2ForCausalLM")
              .source),
      "full_attention or sliding_attention"));
}

TEST_CASE("GPT-2 goes by its own names or the common ones and refuses what it does not compute") {
  const std::string gpt2 = "GPT2LMHeadModel";
  const ModelInfo own =
      read_model_info(Folder(R"(, "n_embd": 48, "n_head": 12, "n_layer": 3, "n_positions": 64)", gpt2).source);
  CHECK(own.d_model == 48);
  CHECK(own.n_heads == 12);
  CHECK(own.n_layers == 3);
  CHECK(own.max_positions == 64);
  CHECK(own.d_ff == 192);
  const ModelInfo common = read_model_info(Folder("", gpt2).source);
  CHECK(common.d_model == 32);
  CHECK(common.n_heads == 4);
  CHECK(common.n_layers == 2);
  CHECK(common.max_positions == 1024);
  CHECK(read_model_info(Folder(R"(, "n_inner": 40)", gpt2).source).d_ff == 40);
  CHECK(contains(refusal(Folder(R"(, "n_head": 5)", gpt2).source),
                 "hidden_size is 32, expected a multiple of the 5 heads"));
  CHECK(contains(refusal(Folder(R"(, "add_cross_attention": true)", gpt2).source), "add_cross_attention is true"));
  CHECK(contains(refusal(Folder(R"(, "activation_function": "quick_gelu")", gpt2).source),
                 "activation_function is \"quick_gelu\""));
}

TEST_CASE("A dtype that weights cannot have is refused and the folder must hold a config") {
  Folder folder("");
  folder.source.dtype = "int8";
  CHECK(contains(refusal(folder.source), "expected float32, bfloat16 or float16"));
  folder.source.dtype = "float99";
  CHECK(contains(refusal(folder.source), "float99"));
  ModelSource nowhere;
  nowhere.folder = "/nonexistent/model";
  CHECK(contains(refusal(nowhere), "has no config.json"));
}

TEST_CASE("The stop set comes from generation_config.json where it names one") {
  Folder folder("");
  CHECK(read_model_info(folder.source).eos == std::vector<int32_t>{2});
  folder.folder.write("generation_config.json",
                      R"({"eos_token_id": [128001, 128008, 128009], "bos_token_id": 128000})");
  const ModelInfo info = read_model_info(folder.source);
  CHECK(info.eos == std::vector<int32_t>{128001, 128008, 128009});
  CHECK(info.bos == 128000);
  CHECK(info.family == "llama");
}

TEST_CASE("Keys that a family leaves out take its own defaults") {
  const Folder folder(R"(, "num_attention_heads": 16)", "MistralForCausalLM");
  const ModelInfo mistral = read_model_info(folder.source);
  CHECK(mistral.n_kv_heads == 8);
  CHECK(mistral.max_positions == 131072);
  CHECK(read_model_info(Folder("").source).n_kv_heads == 4);
  CHECK(read_model_info(Folder("").source).max_positions == 2048);
}

}  // namespace sluice

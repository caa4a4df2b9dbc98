// SPDX-License-Identifier: Apache-2.0
// Shapes of published models for --random-init, written as their config.json: the same resolver reads them.
#include <fmt/format.h>

#include "base/error.h"
#include "model/family.h"

namespace sluice {
namespace {
struct Shape {
  const char* name;
  const char* config;
};
constexpr Shape kShapes[] = {
    {"llama-3.2-1b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 128256,
      "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "tie_word_embeddings": true})"},
    {"llama-3.2-3b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 128256,
      "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "tie_word_embeddings": true})"},
    {"llama-3-8b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 128256,
      "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0})"},
    {"llama-3-70b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 128256,
      "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
      "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0})"},
    {"llama-2-7b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", "vocab_size": 32000,
      "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5})"},
    {"tinyllama-1.1b", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 32000,
      "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
      "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5})"},
    {"qwen2-0.5b", R"({"architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 151936,
      "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
      "num_key_value_heads": 2, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
      "tie_word_embeddings": true})"},
    {"mistral-7b", R"({"architectures": ["MistralForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 32000,
      "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "sliding_window": 4096})"},
    {"gpt2", R"({"architectures": ["GPT2LMHeadModel"], "torch_dtype": "float32", "vocab_size": 50257, "n_embd": 768,
      "n_layer": 12, "n_head": 12, "n_positions": 1024})"},
    {"gpt2-xl", R"({"architectures": ["GPT2LMHeadModel"], "torch_dtype": "float32", "vocab_size": 50257, "n_embd": 1600,
      "n_layer": 48, "n_head": 25, "n_positions": 1024})"},
    {"llama-tiny", R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 512,
      "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 2, "max_position_embeddings": 2048})"},
};
}  // namespace

std::vector<std::string> random_shapes() {
  std::vector<std::string> out;
  for (const Shape& shape : kShapes) out.emplace_back(shape.name);
  return out;
}

const char* random_shape_config(const std::string& name) {
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return shape.config;
  }
  throw Error(fmt::format("--random-init {} is unknown, expected one of {}", name, fmt::join(random_shapes(), ", ")));
}

}  // namespace sluice

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
    {"bloom-560m", R"({"architectures": ["BloomForCausalLM"], "torch_dtype": "float16", "vocab_size": 250880,
      "hidden_size": 1024, "n_layer": 24, "n_head": 16})"},
    {"bloom-7b1", R"({"architectures": ["BloomForCausalLM"], "torch_dtype": "float16", "vocab_size": 250880,
      "hidden_size": 4096, "n_layer": 30, "n_head": 32})"},
    {"bloom-176b", R"({"architectures": ["BloomForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 250880,
      "hidden_size": 14336, "n_layer": 70, "n_head": 112})"},
    {"falcon-7b", R"({"architectures": ["FalconForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 65024,
      "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": true,
      "parallel_attn": true})"},
    {"falcon-40b", R"({"architectures": ["FalconForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 65024,
      "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
      "new_decoder_architecture": true})"},
    {"pythia-160m", R"({"architectures": ["GPTNeoXForCausalLM"], "torch_dtype": "float16", "vocab_size": 50304,
      "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12})"},
    {"pythia-1.4b", R"({"architectures": ["GPTNeoXForCausalLM"], "torch_dtype": "float16", "vocab_size": 50304,
      "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 16})"},
    {"gpt-neox-20b", R"({"architectures": ["GPTNeoXForCausalLM"], "torch_dtype": "float16", "vocab_size": 50432,
      "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44, "num_attention_heads": 64})"},
    {"opt-125m", R"({"architectures": ["OPTForCausalLM"], "torch_dtype": "float16", "vocab_size": 50272,
      "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12})"},
    {"opt-350m", R"({"architectures": ["OPTForCausalLM"], "torch_dtype": "float16", "vocab_size": 50272,
      "hidden_size": 1024, "word_embed_proj_dim": 512, "do_layer_norm_before": false, "ffn_dim": 4096,
      "num_hidden_layers": 24, "num_attention_heads": 16})"},
    {"opt-6.7b", R"({"architectures": ["OPTForCausalLM"], "torch_dtype": "float16", "vocab_size": 50272,
      "hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32})"},
    {"megatron-gpt-20b", R"({"architectures": ["MegatronGPTModel"], "torch_dtype": "bfloat16", "vocab_size": 50257,
      "padded_vocab_size": 50688, "hidden_size": 6144, "num_layers": 44, "num_attention_heads": 48,
      "max_position_embeddings": 2048})"},
    {"flan-t5-small", R"({"architectures": ["T5ForConditionalGeneration"], "torch_dtype": "bfloat16",
      "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
      "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "eos_token_id": 1})"},
    {"flan-t5-xl", R"({"architectures": ["T5ForConditionalGeneration"], "torch_dtype": "bfloat16", "vocab_size": 32128,
      "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
      "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "eos_token_id": 1})"},
    {"flan-t5-xxl", R"({"architectures": ["T5ForConditionalGeneration"], "torch_dtype": "bfloat16", "vocab_size": 32128,
      "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
      "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "eos_token_id": 1})"},
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

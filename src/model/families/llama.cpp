// SPDX-License-Identifier: Apache-2.0
// Llama 1, 2 and 3, and the models that differ from it in numbers only: Mistral (sliding window) and Qwen2 (biases of
// q, k and v).
#include "model/gated_decoder.h"

namespace sluice {
namespace {
GatedConfig defaults(int64_t vocab, int64_t d_ff, int64_t n_kv_heads, int64_t max_positions) {
  GatedConfig c;
  c.vocab = vocab, c.d_model = 4096, c.d_ff = d_ff, c.n_layers = 32, c.n_heads = 32;
  c.n_kv_heads = n_kv_heads, c.max_positions = max_positions;
  return c;
}

// Sliding windows: Mistral on every layer, Qwen2 on request from max_window_layers on, or as layer_types says.
std::vector<int64_t> read_windows(const Config& config, bool mistral, int64_t n_layers) {
  const bool on = mistral || config.flag("use_sliding_window", false);
  if (!on || (config.contains("sliding_window") && !config.has("sliding_window"))) return {};
  const int64_t window = config.integer("sliding_window", 4096, 1, kMany);
  const int64_t first = mistral ? 0 : config.integer("max_window_layers", 28, 0, kMany);
  return read_layer_windows(
      config, n_layers, window, [](int64_t layer, int64_t begin) { return layer >= begin; }, first);
}

GatedConfig read_llama(const Config& config) {
  const std::string architecture = config.texts("architectures").front();
  const bool mistral = architecture.starts_with("Mistral"), qwen2 = architecture.starts_with("Qwen2");
  const GatedConfig own = mistral ? defaults(32000, 14336, 8, 131072)
                          : qwen2 ? defaults(151936, 22016, 32, 32768)
                                  : defaults(32000, 11008, 0, 2048);
  GatedConfig c = read_gated(config, own, {10000.0, 0, 0.0});
  if (qwen2) {
    c.qkv_bias = true;
  } else if (!mistral) {
    c.qkv_bias = c.o_bias = config.flag("attention_bias", false);
    c.mlp_bias = config.flag("mlp_bias", false);
  }
  if (mistral || qwen2) c.windows = read_windows(config, mistral, c.n_layers);
  return c;
}

const RegisterFamily kRegistered(
    {"llama",
     {"LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel", "Qwen2ForCausalLM", "Qwen2Model"},
     "model.",
     gated_files(),
     [](const Config& config, ModelInfo& info) { describe_gated(read_llama(config), info); },
     [](LoadContext& context) -> std::unique_ptr<Model> { return load_gated(context, read_llama(context.config)); }});
}  // namespace
}  // namespace sluice

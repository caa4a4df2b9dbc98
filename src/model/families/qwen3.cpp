// SPDX-License-Identifier: Apache-2.0
// Qwen3 (Llama with norms of each head of q and k), Qwen3-MoE (experts in place of some MLPs) and Qwen2-MoE (biases of
// q, k and v instead of norms, and a shared expert).
#include <algorithm>

#include "model/gated_decoder.h"

namespace sluice {
namespace {
// Layers with experts: every decoder_sparse_step-th, less those named.
std::vector<bool> read_sparse(const Config& config, int64_t n_layers, int64_t experts) {
  const int64_t step = config.integer("decoder_sparse_step", 1, 1, kMany);
  const std::vector<int64_t> dense = config.integers("mlp_only_layers");
  std::vector<bool> out;
  for (int64_t i = 0; i < n_layers; ++i)
    out.push_back(experts > 0 && (i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end());
  return out;
}

GatedConfig read_qwen3(const Config& config) {
  const std::string architecture = config.texts("architectures").front();
  const bool moe = architecture.find("Moe") != std::string::npos, qwen2 = architecture.starts_with("Qwen2");
  GatedConfig defaults;
  defaults.vocab = 151936, defaults.d_model = moe ? 2048 : 4096, defaults.d_ff = moe ? (qwen2 ? 5632 : 6144) : 22016;
  defaults.n_layers = moe ? 24 : 32, defaults.n_heads = moe && qwen2 ? 16 : 32;
  defaults.n_kv_heads = moe ? (qwen2 ? 16 : 4) : 32;
  defaults.head_dim = moe ? 0 : 128, defaults.max_positions = 32768;
  GatedConfig c = read_gated(config, defaults, {10000.0, 0, 0.0});
  c.head_norms = !qwen2;
  c.qkv_bias = qwen2 ? config.flag("qkv_bias", true) : config.flag("attention_bias", false);
  c.o_bias = !qwen2 && config.flag("attention_bias", false);
  if (moe) {
    MixtureConfig& m = c.mixture;
    m.experts = config.integer("num_experts", qwen2 ? 60 : 128, 0, 65536);
    m.top_k = config.integer("num_experts_per_tok", qwen2 ? 4 : 8, 1, std::max<int64_t>(1, m.experts));
    m.d_ff = config.integer("moe_intermediate_size", qwen2 ? 1408 : 768, 1, kMany);
    m.renormalise = config.flag("norm_topk_prob", false);
    if (qwen2) m.shared_d_ff = config.integer("shared_expert_intermediate_size", 5632, 1, kMany);
    c.sparse = read_sparse(config, c.n_layers, m.experts);
    const auto sparse = std::count(c.sparse.begin(), c.sparse.end(), true);
    if (sparse == 0) c.sparse.clear();
    if (sparse == c.n_layers) c.ff_products = 0;
  }
  if (!config.flag("use_sliding_window", false)) return c;
  if (moe && qwen2) config.refuse("use_sliding_window", "false, attention to all keys");
  if (config.contains("sliding_window") && !config.has("sliding_window")) return c;
  const int64_t window = config.integer("sliding_window", 4096, 1, kMany);
  if (moe) {  // all layers
    c.windows.assign(static_cast<size_t>(c.n_layers), window);
  } else {
    const int64_t first = config.integer("max_window_layers", 28, 0, kMany);
    c.windows = read_layer_windows(
        config, c.n_layers, window, [](int64_t layer, int64_t begin) { return layer >= begin; }, first);
  }
  return c;
}

const RegisterFamily kRegistered(
    {"qwen3",
     {"Qwen3ForCausalLM", "Qwen3Model", "Qwen3MoeForCausalLM", "Qwen3MoeModel", "Qwen2MoeForCausalLM", "Qwen2MoeModel"},
     "model.",
     gated_files(),
     [](const Config& config, ModelInfo& info) { describe_gated(read_qwen3(config), info); },
     [](LoadContext& context) -> std::unique_ptr<Model> { return load_gated(context, read_qwen3(context.config)); }});
}  // namespace
}  // namespace sluice

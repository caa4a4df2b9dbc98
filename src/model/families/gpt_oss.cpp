// SPDX-License-Identifier: Apache-2.0
// gpt-oss: Llama with a sink in every head's softmax, windows on every other layer, and biased experts with a clamped
// gate in every layer.
#include "model/gated_decoder.h"

namespace sluice {
namespace {
GatedConfig read_gpt_oss(const Config& config) {
  GatedConfig defaults;
  defaults.vocab = 201088, defaults.d_model = 2880, defaults.d_ff = 2880, defaults.n_layers = 36;
  defaults.n_heads = 64, defaults.n_kv_heads = 8, defaults.head_dim = 64, defaults.max_positions = 131072;
  defaults.eps = 1e-5f;
  if (!config.has("rope_scaling") && !config.has("rope_parameters"))
    config.refuse("rope_scaling", "the model's yarn parameters");
  GatedConfig c = read_gated(config, defaults, {150000.0, 0, 0.0});
  if (c.activation != Activation::kSilu) config.refuse("hidden_act", "silu");
  if (config.number("swiglu_limit", 7.0) != 7.0) config.refuse("swiglu_limit", "7, the reference's limit");
  c.qkv_bias = c.o_bias = config.flag("attention_bias", true);
  c.sinks = true;
  c.sparse.assign(static_cast<size_t>(c.n_layers), true);
  c.experts = ExpertNames::kPairs;
  MixtureConfig& m = c.mixture;
  m.experts = config.integer("num_local_experts", 128, 1, 65536);
  m.top_k = config.integer("num_experts_per_tok", 4, 1, m.experts);
  m.d_ff = c.d_ff;
  m.clamped = true;
  c.ff_products = 0;
  const int64_t window = config.integer("sliding_window", 128, 1, kMany);
  c.windows = read_layer_windows(
      config, c.n_layers, window, [](int64_t layer, int64_t) { return layer % 2 == 0; }, 0);
  return c;
}

const RegisterFamily kRegistered(
    {"gpt_oss",
     {"GptOssForCausalLM", "GptOssModel"},
     "model.",
     gated_files(),
     [](const Config& config, ModelInfo& info) { describe_gated(read_gpt_oss(config), info); },
     [](LoadContext& context) -> std::unique_ptr<Model> { return load_gated(context, read_gpt_oss(context.config)); }});
}  // namespace
}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Mixtral: Mistral with a mixture of experts in every layer.
#include "model/gated_decoder.h"

namespace sluice {
namespace {
GatedConfig read_mixtral(const Config& config) {
  GatedConfig defaults;
  defaults.vocab = 32000, defaults.d_model = 4096, defaults.d_ff = 14336, defaults.n_layers = 32;
  defaults.n_heads = 32, defaults.n_kv_heads = 8, defaults.max_positions = 4096 * 32;
  defaults.eps = 1e-5f;
  GatedConfig c = read_gated(config, defaults, {1e6, 0, 0.0});
  c.sparse.assign(static_cast<size_t>(c.n_layers), true);
  c.experts = ExpertNames::kMixtral;
  const char* experts = config.contains("num_experts") ? "num_experts" : "num_local_experts";
  c.mixture.experts = config.integer(experts, 8, 1, 65536);
  c.mixture.top_k = config.integer("num_experts_per_tok", 2, 1, c.mixture.experts);
  c.mixture.d_ff = c.d_ff;
  c.ff_products = 0;
  c.windows = read_uniform_windows(config, c);
  return c;
}

const RegisterFamily kRegistered(
    {"mixtral",
     {"MixtralForCausalLM", "MixtralModel"},
     "model.",
     gated_files(),
     [](const Config& config, ModelInfo& info) { describe_gated(read_mixtral(config), info); },
     [](LoadContext& context) -> std::unique_ptr<Model> { return load_gated(context, read_mixtral(context.config)); }});
}  // namespace
}  // namespace sluice

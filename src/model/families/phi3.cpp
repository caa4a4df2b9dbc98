// SPDX-License-Identifier: Apache-2.0
// Phi-3, Phi-3.5 and Phi-4: Llama with q, k and v in one tensor and gate and up in another, and rotations with short
// and long factors.
#include "model/gated_decoder.h"

namespace sluice {
namespace {
GatedConfig read_phi3(const Config& config) {
  GatedConfig defaults;
  defaults.vocab = 32064, defaults.d_model = 3072, defaults.d_ff = 8192, defaults.n_layers = 32;
  defaults.n_heads = 32, defaults.max_positions = 4096;
  defaults.eps = 1e-5f;
  RopeDefaults rope;
  rope.yarn_is_longrope = true;
  rope.original = 4096;
  GatedConfig c = read_gated(config, defaults, rope);
  c.fused = true;
  c.windows = read_uniform_windows(config, c);
  return c;
}

const RegisterFamily kRegistered(
    {"phi3",
     {"Phi3ForCausalLM", "Phi3Model"},
     "model.",
     gated_files(),
     [](const Config& config, ModelInfo& info) { describe_gated(read_phi3(config), info); },
     [](LoadContext& context) -> std::unique_ptr<Model> { return load_gated(context, read_phi3(context.config)); }});
}  // namespace
}  // namespace sluice

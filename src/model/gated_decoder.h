// SPDX-License-Identifier: Apache-2.0
// The order of operations of Llama and the families that differ from it in numbers, flags and names only.
// x += o(attention(norm(x))); x += down(act(gate(norm(x))) * up(norm(x))), or a mixture of experts; logits =
// head(norm(x)). RMS norms throughout.
#pragma once

#include "model/decoder.h"
#include "model/mixture.h"

namespace sluice {

struct GatedConfig : DecoderSizes {
  float eps = 1e-6f;
  Activation activation = Activation::kSilu;
  RopeConfig rope;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool head_norms = false;                    // of q and k, each head by itself, before they are rotated
  std::vector<bool> sparse;                   // layers with a mixture in place of the MLP; empty: none
  MixtureConfig mixture;                      // of those
  ExpertNames experts = ExpertNames::kPlain;  // where files do not stack them
  bool fused = false;                         // files hold qkv_proj and gate_up_proj
  bool sinks = false;                         // self_attn.sinks: AttentionShape::sinks

  bool is_sparse(int64_t layer) const { return !sparse.empty() && sparse[static_cast<size_t>(layer)]; }
};

// What all these configs call by one name: sizes, eps, activation, rope, tie. `defaults` holds the family's own, with
// n_kv_heads 0 for as many as query heads and head_dim 0 for an even share; others of its fields are kept.
GatedConfig read_gated_sizes(const Config& config, const GatedConfig& defaults);  // without activation and rope
GatedConfig read_gated(const Config& config, const GatedConfig& defaults, const RopeDefaults& rope);

// One window for all layers where the config has it and it is shorter than the context; otherwise empty.
std::vector<int64_t> read_uniform_windows(const Config& config, const DecoderSizes& sizes);

// Windows by layer_types, or else where `slides(layer)`.
std::vector<int64_t> read_layer_windows(const Config& config, int64_t n_layers, int64_t window,
                                        bool (*slides)(int64_t layer, int64_t parameter), int64_t parameter);

void describe_rotation(const RopeConfig& rope, ModelInfo& info);  // where it varies with the length
FileNames gated_files();                                          // also where files stack or fuse what they hold
void describe_gated(const GatedConfig& config, ModelInfo& info);
std::unique_ptr<Model> load_gated(LoadContext& context, const GatedConfig& config);

}  // namespace sluice

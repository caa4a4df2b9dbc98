// SPDX-License-Identifier: Apache-2.0
// A mixture of experts in place of an MLP: a router sends each row to the top_k of its gated MLPs, whose outputs are
// summed by weight. Experts are split over tp ranks like a dense MLP, or whole ones are spread over them; the same
// reduction completes either. An expert that all rows share, where there is one, is split.
#pragma once

#include <string>

#include "model/module_loader.h"
#include "model/tensor_table.h"

namespace sluice {

struct MixtureConfig {
  int64_t experts = 0, top_k = 0;
  int64_t d_ff = 0;         // of one expert
  bool renormalise = true;  // weights of the chosen sum to 1
  int64_t shared_d_ff = 0;  // of the shared expert, which a sigmoid of its own gates; 0: none
  bool clamped = false;     // as gpt-oss: kPairs, with biases and Backend::clamped_swiglu
};

// How files hold a layer's router and experts: as mlp.gate and mlp.experts.E.{gate,up,down}_proj; as
// block_sparse_moe.gate and block_sparse_moe.experts.E.{w1,w3,w2}; or, as transformers 5 computes them, stacked in
// mlp.experts.gate_up_proj [experts, 2 F, H], gate rows first, and mlp.experts.down_proj [experts, H, F]; or as
// mlp.router, mlp.experts.gate_up_proj [experts, H, 2 F], gates in even columns, and mlp.experts.down_proj
// [experts, F, H], each with its NAME_bias.
enum class ExpertNames { kPlain, kMixtral, kStacked, kPairs };

// `names`, or kStacked where the checkpoint has that in the layer of this prefix. Throws Error where it has both.
ExpertNames find_experts(const LoadContext& context, const std::string& layer, ExpertNames names);

// The tensors of a layer: mlp.gate, mlp.experts.E.{gate,up,down}_proj, mlp.shared_expert and its gate.
void list_mixture(TensorTable& table, const MixtureConfig& config, int64_t d_model, bool spread, ExpertNames names);

// Whether experts are spread, by LoadContext::experts.
bool spread_experts(const LoadContext& context, const MixtureConfig& config);

class Mixture {
 public:
  // Scratch of one step, P = T * top_k places.
  struct Scratch {
    Routing routing;
    Tensor logits;  // f32 [T, experts]
    Tensor sorted;  // [P, H]: rows by expert, then what their experts make of them
    Tensor up, ff;  // [P, 2 F], [P, F]
    Tensor shared_up, shared_ff, shared_out, shared_gate;
  };

  // Names of the layer's tensors follow the loader's prefix.
  void load(ModuleLoader& load, const MixtureConfig& config, bool spread, const Groups& groups);
  void finish(Backend& backend);  // after the loader has run
  Scratch take(Arena& arena, DType activation, const MixtureConfig& config, int64_t rows, int64_t d_model) const;
  // out [T, H] = this rank's partial sum over the experts of h [T, H]; reduce() completes it.
  void operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& h, const Scratch& scratch,
                  const MixtureConfig& config, Activation activation) const;

 private:
  int64_t first_ = 0, width_ = 0, shared_width_ = 0;  // of this rank: its first expert; elements of F
  ColumnLinear router_;                               // [experts, H], the same on every rank
  std::vector<ColumnLinear> gate_up_;                 // until finish()
  std::vector<RowLinear> down_;
  Buffer gate_up_bias_, down_bias_;                          // f32, of the experts here one below the other, or empty
  std::unique_ptr<WeightGroup> gate_up_group_, down_group_;  // experts held here
  ColumnLinear shared_gate_up_, shared_gate_;
  RowLinear shared_down_;
};

}  // namespace sluice

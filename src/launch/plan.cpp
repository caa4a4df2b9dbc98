// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "launch/shape.h"

namespace sluice {
namespace {
constexpr double kGib = 1024.0 * 1024 * 1024;
constexpr double kContextGib = 1.0;   // driver context, cuBLAS workspaces, code, recorded steps
constexpr double kWidenedGib = 0.25;  // products of weights of few bits
constexpr double kPeersGib = 0.5;     // NCCL's buffers, when there are several ranks
constexpr int kMostGpus = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cache bytes of one token on the fullest rank; with an encoder, of one of the answer and one of the prompt.
double token_bytes(const PlanRequest& r, int tp, int pp) {
  const int64_t layers = ceil_div(r.model.n_layers, pp), heads = ceil_div(r.model.n_kv_heads, tp);
  const double kinds = r.model.decoder_start >= 0 ? 2 : 1;
  return 2.0 * kinds * static_cast<double>(layers * heads * r.model.head_dim) * r.bytes_per_cache;
}
}  // namespace

Fit layout_fit(const PlanRequest& request, const GpuType& gpu, int tp, int pp) {
  const ModelInfo& m = request.model;
  if (pp > m.n_layers) {
    throw Error(fmt::format("pp {} is more than the {} layers of the model", pp, m.n_layers));
  }
  if (tp > m.n_heads) throw Error(fmt::format("tp {} is more than the {} heads of the model", tp, m.n_heads));
  if (gpu.slice && tp * pp > 1) {
    throw Error(
        fmt::format("{} is a MIG slice; slices cannot reach each other, so it takes one rank (found tp {} pp {})",
                    gpu.name, tp, pp));
  }
  Fit fit;
  fit.gpu = gpu, fit.tp = tp, fit.pp = pp;
  const auto table = static_cast<double>(m.vocab * m.d_model);
  // linear_parameters are what one decode step reads: all layers' products and the head in a dense model, and only the
  // chosen experts, or the decoder, elsewhere, whose token table and head are taken to be two.
  const auto read = static_cast<double>(m.linear_parameters), all = static_cast<double>(m.parameters);
  const bool dense = all < 1.3 * read + 2 * table;
  const double layers = std::max(0.0, dense ? read - table : all - 2 * table);
  const double stage = layers * static_cast<double>(ceil_div(m.n_layers, pp)) / static_cast<double>(m.n_layers);
  const double embedding = table * std::max(2.0, request.bytes_per_weight) / request.bytes_per_weight;
  const double fullest = pp == 1 ? stage + embedding + table : stage + std::max(embedding, table);
  fit.weights_gib = fullest * request.bytes_per_weight / tp / kGib;
  const double width =
      static_cast<double>(m.d_model * 4) + static_cast<double>(3 * m.d_ff + 2 * m.n_heads * m.head_dim) / tp;
  // Logits, the scores that they become, those that tp ranks exchange, and token counts.
  const double vocab = static_cast<double>(m.vocab) * (8 + (tp > 1 ? 4 + 4.0 / tp : 0) + 2 * pp);
  const double tables = static_cast<double>(request.context * m.head_dim) * 4;
  const double scratch = static_cast<double>(request.step_rows) * width * 2 + 64.0 * vocab + tables;
  fit.fixed_gib =
      kContextGib + (tp * pp > 1 ? kPeersGib : 0) + (request.bytes_per_weight < 2 ? kWidenedGib : 0) + scratch / kGib;
  fit.room_gib = gpu.memory_gib * request.utilization - fit.weights_gib - fit.fixed_gib;
  const double per_token = token_bytes(request, tp, pp);
  fit.cache_tokens = fit.room_gib > 0 ? static_cast<int64_t>(fit.room_gib * kGib / per_token) : 0;
  if (gpu.read_gbps > 0) {
    // Stages run one after another.
    fit.tokens_per_s = gpu.read_gbps * 1e9 / (read * request.bytes_per_weight / tp);
  }
  if (fit.cache_tokens < request.context * request.sequences) fit.room_gib = std::min(fit.room_gib, -1e-3);
  return fit;
}

std::optional<Fit> smallest_fit(const PlanRequest& request, const GpuType& gpu) {
  if (!gpu.supported) return std::nullopt;
  if (gpu.slice) {
    const Fit fit = layout_fit(request, gpu, 1, 1);
    if (fit.room_gib < 0) return std::nullopt;
    return fit;
  }
  for (int ranks = 1; ranks <= kMostGpus; ++ranks) {
    for (int tp = std::min(ranks, request.gpus_per_node); tp >= 1; --tp) {
      if (ranks % tp != 0 || (tp & (tp - 1)) != 0 || tp > request.model.n_heads) continue;
      const int pp = ranks / tp;
      if (pp > request.model.n_layers) continue;
      // More than a node in whole nodes.
      if (ranks > request.gpus_per_node && tp != request.gpus_per_node) continue;
      const Fit fit = layout_fit(request, gpu, tp, pp);
      if (fit.room_gib >= 0) return fit;
    }
  }
  return std::nullopt;
}

std::string submit_line(const PlanRequest& request, const Fit& fit, const std::string& model) {
  return fmt::format("sbatch {} --export=ALL,MODEL_ID={},TP={},PP={},MAX_TOTAL_TOKENS={} slurm/serve.sh",
                     fmt::join(shape_options(gpu_shape(request, fit)), " "), model, fit.tp, fit.pp, request.context);
}

}  // namespace sluice

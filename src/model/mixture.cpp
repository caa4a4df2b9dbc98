// SPDX-License-Identifier: Apache-2.0
#include "model/mixture.h"

#include <fmt/format.h>

#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kNarrow = 128;  // elements of F: shares below leave products short of work
constexpr int64_t kScaled = 32;   // elements of F that share a scale in gpt-oss's files

// Whole experts of a rank.
struct Held {
  int64_t first, count;
};
Held held(const MixtureConfig& config, bool spread, const Groups& groups) {
  if (!spread) return {0, config.experts};
  const int64_t each = (config.experts + groups.tp_size() - 1) / groups.tp_size();
  const int64_t first = std::min(config.experts, groups.tp_rank() * each);
  return {first, std::min(each, config.experts - first)};
}
std::string expert_name(int64_t expert, const char* part) { return fmt::format("mlp.experts.{}.{}", expert, part); }

// Gates and ups stay in turns, which keeps the rows of a rank's share together.
void list_pairs(TensorTable& table, const MixtureConfig& config, int64_t d_model, bool spread) {
  const Dim h{d_model}, pairs{2 * config.d_ff, spread ? Split::kWhole : Split::kFeedForwardPairs};
  const Dim f{config.d_ff, spread ? Split::kWhole : Split::kFeedForward};
  Stored router;
  router.name = "mlp.router";
  table.linear("mlp.gate", {config.experts}, h, true, router);
  for (int64_t e = 0; e < config.experts; ++e) {
    const auto expert = [&](const char* part, Dim out, Dim in) {
      const std::string stack = fmt::format("{}mlp.experts.{}", table.prefix(), part);
      Stored from;
      from.name = stack, from.transposed = true, from.stack = config.experts, from.layer = e;
      table.tensor(expert_name(e, part) + ".weight", {out.size, in.size}, out.split, in.split, Init::kUniform, from);
      Stored bias;
      bias.name = stack + "_bias", bias.first = e * out.size, bias.outputs = config.experts * out.size;
      bias.stack = config.experts;
      table.tensor(expert_name(e, part) + ".bias", {out.size}, out.split, Split::kWhole, Init::kUniform, bias);
    };
    expert("gate_up_proj", pairs, h);
    expert("down_proj", h, f);
  }
}
}  // namespace

ExpertNames find_experts(const LoadContext& context, const std::string& layer, ExpertNames names) {
  if (context.checkpoint == nullptr || names == ExpertNames::kPairs) return names;
  const std::string stack = layer + "mlp.experts.gate_up_proj";
  if (context.checkpoint->find(stack) == nullptr) return names;
  const std::string single =
      layer + (names == ExpertNames::kMixtral ? "block_sparse_moe.experts.0.w1" : "mlp.experts.0.gate_proj") +
      ".weight";
  if (context.checkpoint->find(single) != nullptr)
    throw Error(
        fmt::format("{} has both {} and {}, expected experts stacked or one by one; remove the files that do "
                    "not belong to it",
                    context.checkpoint->folder().string(), stack, single));
  return ExpertNames::kStacked;
}

void list_mixture(TensorTable& table, const MixtureConfig& config, int64_t d_model, bool spread, ExpertNames names) {
  const auto stored = [&](std::string name) {
    Stored out;
    if (names == ExpertNames::kMixtral) out.name = std::move(name);
    return out;
  };
  if (names == ExpertNames::kPairs) return list_pairs(table, config, d_model, spread);
  const int64_t ff = config.d_ff;
  const Dim h{d_model}, f{ff, spread ? Split::kWhole : Split::kFeedForward};
  table.linear("mlp.gate", {config.experts}, h, false, stored("block_sparse_moe.gate"));
  for (int64_t e = 0; e < config.experts; ++e) {
    if (names == ExpertNames::kStacked) {
      const auto in_stack = [&](const char* part, Dim out, Dim in, const char* stack, int64_t first, int64_t rows) {
        Stored from;
        from.name = table.prefix() + stack, from.first = e * rows + first, from.outputs = config.experts * rows;
        from.stack = config.experts;
        table.tensor(expert_name(e, part) + ".weight", {out.size, in.size}, out.split, in.split, Init::kUniform, from);
      };
      in_stack("gate_proj", f, h, "mlp.experts.gate_up_proj", 0, 2 * ff);
      in_stack("up_proj", f, h, "mlp.experts.gate_up_proj", ff, 2 * ff);
      in_stack("down_proj", h, f, "mlp.experts.down_proj", 0, d_model);
      continue;
    }
    const auto file = [&](const char* part) { return stored(fmt::format("block_sparse_moe.experts.{}.{}", e, part)); };
    table.linear(expert_name(e, "gate_proj"), f, h, false, file("w1"));
    table.linear(expert_name(e, "up_proj"), f, h, false, file("w3"));
    table.linear(expert_name(e, "down_proj"), h, f, false, file("w2"));
  }
  if (config.shared_d_ff == 0) return;
  const Dim shared{config.shared_d_ff, Split::kFeedForward};
  table.linear("mlp.shared_expert.gate_proj", shared, h);
  table.linear("mlp.shared_expert.up_proj", shared, h);
  table.linear("mlp.shared_expert.down_proj", h, shared);
  table.linear("mlp.shared_expert_gate", {1}, h);
}

bool spread_experts(const LoadContext& context, const MixtureConfig& config) {
  const int64_t tp = context.groups.tp_size();
  // Groups of columns that share a scale stay whole.
  const bool cut = config.d_ff % tp != 0 || (config.clamped && config.d_ff / tp % kScaled != 0);
  if (context.experts == "auto") return tp > 1 && (cut || config.d_ff / tp < kNarrow);
  return context.experts == "spread";
}

void Mixture::load(ModuleLoader& load, const MixtureConfig& config, bool spread, const Groups& groups) {
  const Held mine = held(config, spread, groups);
  first_ = mine.first;
  gate_up_.resize(static_cast<size_t>(mine.count));
  down_.resize(static_cast<size_t>(mine.count));
  load.column({"mlp.gate"}, router_);
  std::vector<std::string> gate_up_biases, down_biases;
  for (int64_t i = 0; i < mine.count; ++i) {
    const std::string gate = expert_name(first_ + i, "gate_proj"), up = expert_name(first_ + i, "up_proj");
    const std::string down = expert_name(first_ + i, "down_proj"), pairs = expert_name(first_ + i, "gate_up_proj");
    std::unique_ptr<Weight>& gate_up = gate_up_[static_cast<size_t>(i)].weight;
    if (config.clamped) {
      load.expert({pairs.c_str()}, gate_up, config.top_k, config.experts);
      gate_up_biases.push_back(pairs + ".bias");
      if (spread || groups.tp_rank() == 0) down_biases.push_back(down + ".bias");
    } else {
      load.expert({gate.c_str(), up.c_str()}, gate_up, config.top_k, config.experts);
    }
    load.expert({down.c_str()}, down_[static_cast<size_t>(i)].weight, config.top_k, config.experts);
  }
  load.vector(gate_up_biases, gate_up_bias_);
  load.vector(down_biases, down_bias_);
  const auto share = [&](int64_t whole) {
    return Partition({1, 1, 1, whole, 1}, groups.tp_rank(), groups.tp_size()).d_ff.padded;
  };
  width_ = spread ? config.d_ff : share(config.d_ff);
  if (config.shared_d_ff == 0) return;
  shared_width_ = share(config.shared_d_ff);
  load.column({"mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"}, shared_gate_up_);
  load.row("mlp.shared_expert.down_proj", shared_down_);
  load.column({"mlp.shared_expert_gate"}, shared_gate_);
}

void Mixture::finish(Backend& backend) {
  std::vector<std::unique_ptr<Weight>> gate_up, down;
  for (ColumnLinear& linear : gate_up_) gate_up.push_back(std::move(linear.weight));
  for (RowLinear& linear : down_) down.push_back(std::move(linear.weight));
  gate_up_group_ = backend.group(std::move(gate_up));
  down_group_ = backend.group(std::move(down));
  gate_up_.clear();
  down_.clear();
}

Mixture::Scratch Mixture::take(Arena& arena, DType activation, const MixtureConfig& config, int64_t rows,
                               int64_t d_model) const {
  const int64_t places = rows * config.top_k;
  Scratch out;
  out.routing.first_expert = first_;
  out.routing.offsets = arena.take(DType::kI32, {gate_up_group_->size() + 1});
  out.routing.rows = arena.take(DType::kI32, {places});
  out.routing.places = arena.take(DType::kI32, {rows, config.top_k});
  out.routing.weights = arena.take(DType::kF32, {rows, config.top_k});
  out.logits = arena.take(DType::kF32, {rows, config.experts});
  const size_t mark = arena.mark();
  out.sorted = arena.take(activation, {places, d_model});
  out.up = arena.take(activation, {places, 2 * width_});
  out.ff = arena.take(activation, {places, width_});
  if (config.shared_d_ff == 0) return out;
  arena.release(mark);  // the shared expert comes after the others
  out.shared_gate = arena.take(activation, {rows, 1});
  out.shared_up = arena.take(activation, {rows, 2 * shared_width_});
  out.shared_ff = arena.take(activation, {rows, shared_width_});
  out.shared_out = arena.take(activation, {rows, d_model});
  return out;
}

void Mixture::operator()(Backend& backend, const Groups& groups, const Tensor& out, const Tensor& h,
                         const Scratch& scratch, const MixtureConfig& config, Activation activation) const {
  router_(backend, scratch.logits, h);
  backend.route(scratch.routing, scratch.logits, {config.top_k, config.renormalise});
  backend.gather_rows(scratch.sorted, h, scratch.routing.rows);
  const auto bias = [&](const Buffer& held, const Tensor& product) {
    if (held.bytes() == 0) return Tensor{};
    return held.view(DType::kF32, {gate_up_group_->size(), product.dim(1)});
  };
  const Tensor &offsets = scratch.routing.offsets, &up = scratch.up;
  backend.grouped_gemm(up, scratch.sorted, *gate_up_group_, offsets, bias(gate_up_bias_, up));
  if (config.clamped) {
    backend.clamped_swiglu(scratch.ff, up);
  } else {
    backend.gated_activation(scratch.ff, up, activation);
  }
  backend.grouped_gemm(scratch.sorted, scratch.ff, *down_group_, offsets, bias(down_bias_, scratch.sorted));
  backend.combine(out, scratch.sorted, scratch.routing);
  if (config.shared_d_ff == 0) return;
  shared_gate_(backend, scratch.shared_gate, h);
  shared_gate_up_(backend, scratch.shared_up, h);
  backend.gated_activation(scratch.shared_ff, scratch.shared_up, activation);
  shared_down_(backend, groups, scratch.shared_out, scratch.shared_ff);
  backend.add_gated(out, scratch.shared_out, scratch.shared_gate);
}

}  // namespace sluice

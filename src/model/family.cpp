// SPDX-License-Identifier: Apache-2.0
#include "model/family.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "weights/load.h"

namespace sluice {
namespace {
std::vector<Family>& registry() {
  static std::vector<Family> families;
  return families;
}
}  // namespace

RegisterFamily::RegisterFamily(Family family) {
  for (const Family& other : registry()) {
    check(other.name != family.name, fmt::format("two model families are named {}", family.name));
    for (const std::string& architecture : family.architectures) {
      const auto& known = other.architectures;
      check(std::find(known.begin(), known.end(), architecture) == known.end(),
            fmt::format("the families {} and {} both claim {}", other.name, family.name, architecture));
    }
  }
  registry().push_back(std::move(family));
}

const Family& family_of(const Config& config) {
  const std::vector<std::string> architectures = config.texts("architectures");
  const std::string wanted = architectures.empty() ? "" : architectures.front();
  for (const Family& family : registry()) {
    const auto& known = family.architectures;
    if (std::find(known.begin(), known.end(), wanted) != known.end()) return family;
  }
  throw Error(fmt::format(
      "{}: {}, expected one of {}", config.origin(),
      wanted.empty() ? "it names no architecture" : fmt::format("the architecture {} is not supported", wanted),
      fmt::join(model_families(), ", ")));
}

bool LoadContext::names_begin(const std::string& prefix) const {
  if (packed.from != nullptr) return packed.from->holds(prefix);
  if (checkpoint == nullptr) return false;
  const auto& tensors = checkpoint->tensors();
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const CheckpointTensor& tensor) { return tensor.name.starts_with(prefix); });
}

namespace {
TiedNames tie_of_files(const LoadContext& context, const std::string& embed, const std::string& head) {
  if (context.checkpoint == nullptr) return {embed, embed, true};
  const CheckpointTensor* one = context.checkpoint->find(embed);
  const CheckpointTensor* two = context.checkpoint->find(head);
  if (one == nullptr && two != nullptr) return {head, head, true};
  if (one == nullptr || two == nullptr || context.checkpoint->same_content(*one, *two)) return {embed, embed, true};
  if (!context.staging.quiet) {
    log_warning(fmt::format("{}: tie_word_embeddings is true, but {} and {} differ; both are used",
                            context.checkpoint->folder().string(), embed, head));
  }
  return {embed, head, false};
}
}  // namespace

TiedNames resolve_tie(const LoadContext& context, const std::string& embed, const std::string& head, bool claimed) {
  if (!claimed) return {embed, head, false};
  if (context.packed.from != nullptr) {
    const std::optional<PackedTie>& tie = context.packed.from->layout().tie;
    if (!tie)
      throw Error(fmt::format("{}: tie_word_embeddings is true, but the weights were packed when it was not; {}",
                              context.config.origin(), context.packed.from->layout().again()));
    return {tie->embed, tie->head, tie->tied};
  }
  TiedNames out = tie_of_files(context, embed, head);
  if (context.packed.to != nullptr) context.packed.to->set_tie({out.embed, out.head, out.tied});
  return out;
}

void warn_unused(const LoadContext& context, const std::vector<TensorSpec>& table,
                 const std::vector<std::string>& ignored) {
  if (context.checkpoint == nullptr || context.staging.quiet) return;
  const auto unused = unused_tensors(*context.checkpoint, table, ignored);
  if (unused.empty()) return;
  log_warning(fmt::format("{}: {} tensors are not part of the model and stay unread, the first is {}",
                          context.checkpoint->folder().string(), unused.size(), unused.front()));
}

void count_parameters(const std::vector<TensorSpec>& table, ModelInfo& info) {
  // Each of the config's numbers is in its range, their products need not be.
  constexpr double kMost = 1e15;
  double total = static_cast<double>(info.vocab) * static_cast<double>(info.d_model);
  for (const TensorSpec& spec : table) {
    double elements = 1;
    for (const int64_t dim : spec.shape) elements *= static_cast<double>(dim);
    total += elements;
  }
  if (total > kMost)
    throw Error(
        fmt::format("config.json describes a model of {:.3g} parameters, expected at most {:.0e}; check "
                    "hidden_size, vocab_size, the layers and the heads",
                    total, kMost));
  info.parameters = 0;
  info.linear_parameters = info.vocab * info.d_model;  // the head, tied or not
  for (const TensorSpec& spec : table) {
    info.parameters += spec.elements();
    if (spec.place == Place::kLayer && spec.shape.size() == 2) info.linear_parameters += spec.elements();
  }
}

std::vector<FamilyNames> family_names() {
  std::vector<FamilyNames> out;
  for (const Family& family : registry()) out.push_back({family.name, family.architectures});
  std::sort(out.begin(), out.end(), [](const FamilyNames& a, const FamilyNames& b) { return a.name < b.name; });
  return out;
}

std::vector<std::string> model_families() {
  std::vector<std::string> out;
  for (const Family& family : registry())
    out.insert(out.end(), family.architectures.begin(), family.architectures.end());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "model/family.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

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

std::vector<std::string> model_families() {
  std::vector<std::string> out;
  for (const Family& family : registry())
    out.insert(out.end(), family.architectures.begin(), family.architectures.end());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace sluice

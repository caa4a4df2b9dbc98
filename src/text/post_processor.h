// SPDX-License-Identifier: Apache-2.0
// The post-processor of a tokenizer.json, reduced to what it does to one text: ids before and after it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "text/component.h"

namespace sluice {

struct PostProcessor {
  std::vector<int32_t> before, after;

  PostProcessor() = default;
  explicit PostProcessor(const ComponentJson& json);
};

}  // namespace sluice

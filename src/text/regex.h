// SPDX-License-Identifier: Apache-2.0
// Oniguruma with Ruby syntax over UTF-8, the engine that tokenizer.json patterns are written for, with a limit on
// backtracking; the patterns of the usual files run on text/scanner.h instead, to the same matches. Immutable after
// construction; searches from several threads are independent.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace sluice {

class Regex {
 public:
  enum class Use { kFastest, kEngine };
  // Throws Error with the engine's reason.
  explicit Regex(const std::string& pattern, Use use = Use::kFastest);
  static Regex literal(std::string_view text);
  Regex(Regex&&) noexcept;
  ~Regex();
  bool scans() const;  // by text/scanner.h

  // Calls match(begin, end) for each match, left to right, as the engine's scan does: an empty match directly after
  // another match is skipped. Throws RequestError when backtracking exceeds its limit.
  void each(std::string_view text, const std::function<void(size_t, size_t)>& match) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice

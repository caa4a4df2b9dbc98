// SPDX-License-Identifier: Apache-2.0
// Stop strings over decoded text, across token borders. Owned by one sequence's output path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The match that is complete first wins; of two complete at the same byte, the longer one. The result does not depend
// on how the text is cut into pieces.
class StopMatcher {
 public:
  // Empty strings are ignored. `include_stop`: the stop text itself is emitted too.
  explicit StopMatcher(std::vector<std::string> stops, bool include_stop = false);

  // Appends to `out` the text that can no longer belong to a stop string. True once a stop string is complete;
  // text after it is dropped, in this and later calls.
  bool feed(std::string_view text, std::string& out);
  // The sequence has ended for another reason: appends what was held back.
  void finish(std::string& out);

  bool stopped() const { return matched_ >= 0; }
  int matched() const { return matched_; }         // index into the stop strings, -1 for none
  uint64_t position() const { return position_; }  // byte offset of the match in the text fed so far
  size_t held() const { return held_.size(); }     // bytes held back

 private:
  struct Pattern {
    std::string text;
    std::vector<uint32_t> failure;  // [text.size()], Knuth-Morris-Pratt
    uint32_t state = 0;             // bytes of text matched by the end of what was fed
  };
  std::vector<Pattern> patterns_;
  std::string held_;
  uint64_t consumed_ = 0, position_ = 0;
  int matched_ = -1;
  bool include_stop_ = false;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Added tokens: strings that are found in the text before the model sees it. Immutable after build().
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/normalizer.h"
#include "text/value.h"

namespace sluice {

struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // found in normalised text, its content normalised too
  bool special = false;      // left out of text by skip_special; does not affect matching
  static AddedToken from_json(const Value& json, bool normalized_default);
};

// A stretch of text between added tokens (id < 0), or one of them.
struct TextPart {
  size_t begin, end;
  int32_t id;
};

class AddedTokens {
 public:
  using ModelId = std::function<int32_t(const std::string&)>;  // -1 when the model's vocabulary lacks it

  // A later token with the same content replaces the earlier one's flags.
  void add(const AddedToken& token, const ModelId& model_id, size_t model_size);
  void build(const Normalizer& normalizer);

  std::vector<TextPart> find_raw(std::string_view text) const { return find(raw_, text); }
  std::vector<TextPart> find_normalized(std::string_view text) const { return find(normalized_, text); }
  const std::map<int32_t, AddedToken>& by_id() const { return by_id_; }
  int32_t id(std::string_view content) const;  // -1 when absent
  bool is_special(std::string_view content) const { return specials_.contains(content); }

 private:
  // Leftmost-longest search: for each first byte the lengths that occur, longest first.
  struct Matcher {
    std::array<std::vector<size_t>, 256> lengths;
    std::unordered_map<std::string_view, int32_t> ids;
    std::vector<std::unique_ptr<std::string>> owned;
    void add(std::string text, int32_t id);
  };
  std::vector<TextPart> find(const Matcher& matcher, std::string_view text) const;

  std::map<int32_t, AddedToken> by_id_;
  std::map<std::string, int32_t, std::less<>> ids_;
  std::set<std::string, std::less<>> specials_;
  Matcher raw_, normalized_;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "text/infill.h"

#include <array>

namespace sluice {
namespace {
struct Marks {
  const char *prefix, *suffix, *middle;  // without middle the suffix comes first, and the prefix ends the prompt
  std::array<const char*, 5> ends;       // where the vocabulary has them
};
constexpr Marks kMarks[] = {
    // Qwen2.5-Coder, CodeGemma
    {"<|fim_prefix|>",
     "<|fim_suffix|>",
     "<|fim_middle|>",
     {"<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>"}},
    // StarCoder and StarCoder2, SantaCoder
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", {"<fim_pad>", "<repo_name>", "<file_sep>", "<|endoftext|>"}},
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>", {"<fim-pad>", "<|endoftext|>"}},
    // Code Llama
    {"▁<PRE>", "▁<SUF>", "▁<MID>", {"▁<EOT>"}},
    // DeepSeek-Coder
    {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", {"<|EOT|>"}},
    // Codestral
    {"[PREFIX]", "[SUFFIX]", nullptr, {}},
};

// Without the space that a tokenizer puts before a text: a suffix follows other text.
std::vector<int32_t> encode_rest(const Tokenizer& tokenizer, std::string_view text) {
  constexpr std::string_view kBefore = "☺";
  const std::vector<int32_t> before = tokenizer.encode(kBefore, false);
  if (before.empty() || !tokenizer.token_text(before[0]).starts_with("▁")) return tokenizer.encode(text, false);
  std::vector<int32_t> out = tokenizer.encode(std::string(kBefore) + std::string(text), false);
  out.erase(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(before.size()));
  return out;
}
}  // namespace

std::optional<Infill> infill(const Tokenizer& tokenizer, std::string_view prefix, std::string_view suffix,
                             bool add_special) {
  for (const Marks& marks : kMarks) {
    const auto before = tokenizer.token_id(marks.prefix), after = tokenizer.token_id(marks.suffix),
               middle = marks.middle != nullptr ? tokenizer.token_id(marks.middle) : std::nullopt;
    if (!before || !after || (marks.middle != nullptr && !middle)) continue;
    Infill out;
    if (const auto first = tokenizer.encode("", add_special); first.size() == 1 && first[0] != tokenizer.eos_id())
      out.prompt = first;
    const auto add = [&](int32_t mark, const std::vector<int32_t>& ids) {
      out.prompt.push_back(mark);
      out.prompt.insert(out.prompt.end(), ids.begin(), ids.end());
      out.stops.push_back(mark);
    };
    const std::vector<int32_t> rest = encode_rest(tokenizer, suffix);
    if (!middle) add(*after, rest);
    add(*before, tokenizer.encode(prefix, false));
    if (middle) {
      add(*after, rest);
      add(*middle, {});
    }
    for (const char* end : marks.ends)
      if (const auto id = end != nullptr ? tokenizer.token_id(end) : std::nullopt) out.stops.push_back(*id);
    return out;
  }
  return std::nullopt;
}

}  // namespace sluice

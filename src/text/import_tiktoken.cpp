// SPDX-License-Identifier: Apache-2.0
// A tiktoken file, "base64 rank" per line, as the original Llama 3 checkpoints have it. Pattern and special tokens are
// not in the file: they are those of Llama 3.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "base/error.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/import.h"
#include "text/json_parts.h"

namespace sluice {
namespace {
constexpr const char* kPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Those with a meaning in Llama 3 or 3.1, by place after the ranks; the others of 256 are reserved.
constexpr std::pair<int, const char*> kNamed[] = {
    {0, "<|begin_of_text|>"}, {1, "<|end_of_text|>"},     {4, "<|finetune_right_pad_id|>"},
    {5, "<|step_id|>"},       {6, "<|start_header_id|>"}, {7, "<|end_header_id|>"},
    {8, "<|eom_id|>"},        {9, "<|eot_id|>"},          {10, "<|python_tag|>"}};
constexpr int kSpecials = 256;
constexpr int64_t kMaxRank = 1 << 24;
constexpr size_t kMaxToken = 256;  // bytes; the longest known has 128

using Ranks = std::unordered_map<std::string, int64_t>;

std::vector<std::pair<int64_t, std::string>> read_ranks(std::string_view text, Ranks& ranks,
                                                        const std::string& origin) {
  std::vector<std::pair<int64_t, std::string>> tokens;
  std::unordered_map<int64_t, size_t> lines;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto refuse = [&](const std::string& what) {
      throw Error(fmt::format("{}: line {}: {}", origin, number, what));
    };
    const size_t space = std::min(line.find(' '), line.size());
    std::string token;
    if (!decode_base64(line.substr(0, space), token))
      refuse(fmt::format("expected a token in base64, found \"{}\"", line.substr(0, 80)));
    int64_t rank = -1;
    const char* from = line.data() + std::min(space + 1, line.size());
    const auto [stop, error] = std::from_chars(from, line.data() + line.size(), rank);
    if (error != std::errc() || stop != line.data() + line.size() || rank < 0 || rank >= kMaxRank)
      refuse(fmt::format("expected a rank after the token, found \"{}\"", line.substr(0, 80)));
    if (token.size() > kMaxToken)
      refuse(fmt::format("a token of {} bytes, expected at most {}", token.size(), kMaxToken));
    if (!ranks.emplace(token, rank).second) refuse("the token occurs twice");
    if (const auto [known, fresh] = lines.emplace(rank, number); !fresh)
      refuse(fmt::format("rank {} is that of line {} already", rank, known->second));
    tokens.emplace_back(rank, std::move(token));
  }
  for (int b = 0; b < 256; ++b) {
    if (!ranks.contains(std::string(1, static_cast<char>(b))))
      throw Error(fmt::format("{}: byte {} has no token, expected all 256", origin, b));
  }
  std::sort(tokens.begin(), tokens.end());
  if (tokens.back().first != static_cast<int64_t>(tokens.size()) - 1)
    throw Error(
        fmt::format("{}: {} tokens have ranks up to {}, expected no gaps", origin, tokens.size(), tokens.back().first));
  return tokens;
}

std::string byte_level(std::string_view bytes) {
  std::string out;
  append_byte_level(out, bytes);
  return out;
}

// Every split of a token into two others, in order of the token's rank, then of the halves'.
List derive_merges(const std::vector<std::pair<int64_t, std::string>>& tokens, const Ranks& ranks) {
  List out;
  struct Split {
    int64_t left, right;
    size_t at;
  };
  std::vector<Split> splits;
  for (const auto& [rank, token] : tokens) {
    splits.clear();
    for (size_t at = 1; at < token.size(); ++at) {
      const auto left = ranks.find(token.substr(0, at)), right = ranks.find(token.substr(at));
      if (left != ranks.end() && right != ranks.end()) splits.push_back({left->second, right->second, at});
    }
    std::sort(splits.begin(), splits.end(),
              [](const Split& a, const Split& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
    for (const Split& split : splits)
      out.push_back(List{byte_level(token.substr(0, split.at)), byte_level(token.substr(split.at))});
  }
  return out;
}

std::string special_name(int place) {
  for (const auto& [at, name] : kNamed) {
    if (at == place) return name;
  }
  const int skipped = static_cast<int>(
      std::count_if(std::begin(kNamed), std::end(kNamed), [&](const auto& named) { return named.first < place; }));
  return fmt::format("<|reserved_special_token_{}|>", place - skipped);
}
}  // namespace

bool is_tiktoken(std::string_view file) {
  const std::string_view line = file.substr(0, std::min(file.find('\n'), file.size()));
  const size_t space = line.find(' ');
  std::string token;
  return space != std::string_view::npos && decode_base64(line.substr(0, space), token);
}

ImportedTokenizer import_tiktoken(std::string_view text, const Value& config, const std::string& origin) {
  Ranks ranks;
  const auto tokens = read_ranks(text, ranks, origin);
  const int64_t size = static_cast<int64_t>(tokens.size());
  Dict vocab;
  vocab.reserve(tokens.size());
  for (const auto& [rank, token] : tokens) vocab.set(byte_level(token), rank);

  ImportedTokenizer out;
  out.origin = origin;
  Dict filled = config.as_dict();
  if (filled.find("bos_token") == nullptr) filled.set("bos_token", special_name(0));
  if (filled.find("eos_token") == nullptr) filled.set("eos_token", special_name(1));
  out.config = filled;
  const std::string bos = text_of(out.config, "bos_token");
  std::optional<int64_t> bos_id;
  List added;
  // Where the configuration lists its added tokens, those are all.
  if (const Value* listed = config.find("added_tokens_decoder"); listed != nullptr && listed->is_dict()) {
    for (const auto& [id, token] : listed->as_dict().entries()) {
      const Value* content = token.find("content");
      if (content != nullptr && content->is_string() && content->as_string() == bos) bos_id = std::atoll(id.c_str());
    }
  } else {
    for (int i = 0; i < kSpecials; ++i) {
      added.push_back(added_token(size + i, special_name(i), false, true));
      if (special_name(i) == bos) bos_id = size + i;
    }
  }
  if (!bos_id)
    throw Error(fmt::format("{}: bos_token {} of tokenizer_config.json is not among the special tokens", origin, bos));
  const Value split = json_dict(
      {{"type", "Split"}, {"pattern", json_dict({{"Regex", kPattern}})}, {"behavior", "Isolated"}, {"invert", false}});
  out.json =
      json_dict({{"added_tokens", std::move(added)},
                 {"pre_tokenizer",
                  json_dict({{"type", "Sequence"}, {"pretokenizers", List{split, byte_level_part(false, false)}}})},
                 {"post_processor", one_token_template(bos, *bos_id, false)},
                 {"decoder", byte_level_part(true, true)},
                 {"model", json_dict({{"type", "BPE"},
                                      {"ignore_merges", true},
                                      {"vocab", std::move(vocab)},
                                      {"merges", derive_merges(tokens, ranks)}})}});
  return out;
}

}  // namespace sluice

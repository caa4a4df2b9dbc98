// SPDX-License-Identifier: Apache-2.0
// vocab.json and merges.txt, as GPT2Converter of transformers rewrites them.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/import.h"
#include "text/json_parts.h"
#include "text/unicode.h"

namespace sluice {
namespace {
constexpr const char* kEndOfText = "<|endoftext|>";

List read_merges(std::string_view text, const Value& vocab, const std::string& origin) {
  List out;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const auto refuse = [&](const std::string& what) {
      throw Error(fmt::format("{}: line {}: {}", origin, number, what));
    };
    if (!is_utf8(line)) refuse("expected UTF-8 text");
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos)
      refuse(fmt::format("expected two tokens with one space between, found \"{}\"", line.substr(0, 80)));
    const std::string left(line.substr(0, space)), right(line.substr(space + 1));
    for (const std::string& token : {left, right, left + right}) {
      if (vocab.find(token) == nullptr) refuse(fmt::format("token {} is not in vocab.json", token));
    }
    out.push_back(List{left, right});
  }
  return out;
}

// added_tokens.json: what was added to the vocabulary, by id.
List read_extra(const Value& extra, const Value& config, const std::string& origin) {
  List out;
  if (extra.is_null()) return out;
  std::vector<std::pair<int64_t, std::string>> tokens;
  for (const auto& [token, id] : extra.as_dict().entries()) {
    if (!id.is_int() || id.is_bool())
      throw Error(fmt::format("added_tokens.json beside {}: token {} is {}, expected an id", origin, token,
                              id.dump_json().substr(0, 80)));
    tokens.emplace_back(id.as_int(), token);
  }
  std::sort(tokens.begin(), tokens.end());
  for (const auto& [id, token] : tokens) {
    const bool special = std::any_of(std::begin(kNamedTokens), std::end(kNamedTokens),
                                     [&, &t = token](const char* key) { return named_token(config, key) == t; });
    out.push_back(added_token(id, token, !special, special));
  }
  return out;
}
}  // namespace

ImportedTokenizer import_merges(const Value& vocab, std::string_view merges, const Value& extra, const Value& config,
                                const std::string& origin) {
  const std::string class_name = text_of(config, "tokenizer_class");
  if (!class_name.empty() && class_name != "GPT2Tokenizer" && class_name != "GPT2TokenizerFast") {
    throw Error(fmt::format(
        "{}: tokenizer_class is {}, expected GPT2Tokenizer: others split text by rules that are not in these files. "
        "Convert the tokenizer once with transformers (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)).",
        origin, class_name));
  }
  ImportedTokenizer out;
  out.origin = origin;
  Dict filled = config.as_dict();
  if (vocab.find(kEndOfText) != nullptr) {
    for (const char* key : {"unk_token", "bos_token", "eos_token"}) {
      if (filled.find(key) == nullptr) filled.set(key, kEndOfText);
    }
  }
  out.config = filled;

  const bool prefix = flag_of(config, "add_prefix_space", false);
  Dict file = json_dict(
      {{"added_tokens", read_extra(extra, out.config, origin)},
       {"pre_tokenizer", byte_level_part(prefix, true)},
       {"decoder", byte_level_part(prefix, true)},
       {"model", json_dict({{"type", "BPE"}, {"vocab", vocab}, {"merges", read_merges(merges, vocab, origin)}})}});
  if (flag_of(config, "add_bos_token", false)) {
    const std::string bos = text_of(out.config, "bos_token");
    const Value* id = vocab.find(bos);
    if (id == nullptr && extra.is_dict()) id = extra.find(bos);
    if (id == nullptr || !id->is_int())
      throw Error(fmt::format("{}: add_bos_token is set but bos_token {} is not in the vocabulary", origin, bos));
    file.set("post_processor", one_token_template(bos, id->as_int(), false));
  }
  out.json = std::move(file);
  return out;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "text/token_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/bpe.h"
#include "text/unigram.h"
#include "text/word_models.h"

namespace sluice {
namespace {
constexpr int64_t kMaxIds = 1 << 26;
constexpr int64_t kGaps = 1 << 16;  // ids that may stand for nothing, besides 16 for each token: tables are as long
}  // namespace

std::unique_ptr<TokenModel> TokenModel::load(const ComponentJson& json) {
  // Files of old versions leave the type out; the other fields tell.
  const Value* vocab = json.json.find("vocab");
  const char* usual = json.json.find("merges") != nullptr                     ? "BPE"
                      : vocab != nullptr && vocab->is_list()                  ? "Unigram"
                      : json.json.find("max_input_chars_per_word") != nullptr ? "WordPiece"
                      : json.json.find("unk_token") != nullptr                ? "WordLevel"
                                                                              : "";
  const std::string type = json.text("type", usual);
  if (type == "BPE") return std::make_unique<Bpe>(json);
  if (type == "Unigram") return std::make_unique<Unigram>(json);
  if (type == "WordPiece") return std::make_unique<WordPiece>(json);
  if (type == "WordLevel") return std::make_unique<WordLevel>(json);
  json.refuse(fmt::format("model type {} is not supported, expected BPE, Unigram, WordPiece or WordLevel",
                          type.empty() ? "(none)" : type));
}

void TokenModel::add(std::string_view token, int32_t id) {
  const size_t at = static_cast<size_t>(id);
  if (at >= tokens_.size()) tokens_.resize(at + 1);
  tokens_[at] = token;
  ids_.insert_or_assign(std::string(token), id);
  ++size_;
}

void TokenModel::read_vocab(const ComponentJson& json) {
  const Value* vocab = json.json.find("vocab");
  if (vocab == nullptr || !vocab->is_dict()) json.refuse("\"vocab\" should be an object of token to id");
  const auto n_tokens = static_cast<int64_t>(vocab->as_dict().size());
  const int64_t end = std::min(kMaxIds, kGaps + 16 * n_tokens);
  ids_.reserve(vocab->as_dict().size());
  for (const auto& [token, id] : vocab->as_dict().entries()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= end) {
      json.refuse(fmt::format("id of token {} is out of range: expected 0 to {} among {} tokens, found {}", token,
                              end - 1, n_tokens, id.dump_compact()));
    }
    add(token, static_cast<int32_t>(id.as_int()));
  }
}

int32_t TokenModel::find(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? -1 : it->second;
}

std::optional<int32_t> TokenModel::id(std::string_view token) const {
  const int32_t found = find(token);
  return found < 0 ? std::nullopt : std::optional<int32_t>(found);
}

}  // namespace sluice

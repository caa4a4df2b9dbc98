// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace sluice {
namespace {

struct Field {
  std::string_view name;
  const Value& value;

  [[noreturn]] void refuse(std::string_view expected) const {
    throw RequestError(RequestError::Kind::kValidation,
                       fmt::format("{}: expected {}, found {}", name, expected, value.dump_compact().substr(0, 80)),
                       std::string(name));
  }
  int32_t id(const Value& v, std::string_view expected) const {
    if (!v.is_int() || v.as_int() < 0 || v.as_int() > INT32_MAX) refuse(expected);
    return static_cast<int32_t>(v.as_int());
  }
  std::vector<int32_t> ids(const Value& list, std::string_view expected) const {
    if (!list.is_list()) refuse(expected);
    std::vector<int32_t> out;
    for (const Value& item : list.as_list()) out.push_back(id(item, expected));
    return out;
  }
  float share() const {
    const double found = value.is_number() && !value.is_bool() ? value.as_float() : -1;
    if (!(found >= 0 && found < 1)) refuse("a number from 0 to below 1");
    return static_cast<float>(found);
  }
};

constexpr std::string_view kNames[] = {"bad_words",
                                       "bad_words_ids",
                                       "no_repeat_ngram_size",
                                       "suppress_tokens",
                                       "begin_suppress_tokens",
                                       "allowed_token_ids",
                                       "forced_bos_token_id",
                                       "forced_eos_token_id",
                                       "exponential_decay_length_penalty",
                                       "epsilon_cutoff",
                                       "eta_cutoff",
                                       "num_beams",
                                       "length_penalty",
                                       "early_stopping"};

}  // namespace

std::span<const std::string_view> sampling_field_names() { return kNames; }

bool read_sampling_field(std::string_view name, const Value& value, GenerateRequest& r) {
  if (std::ranges::find(kNames, name) == std::end(kNames)) return false;
  if (value.is_null()) return true;
  const Field field{name, value};
  constexpr std::string_view kIds = "a list of token ids";
  SamplingParams& s = r.sampling;
  if (name == "bad_words") {
    if (!value.is_list()) field.refuse("a list of strings");
    for (const Value& word : value.as_list()) {
      if (!word.is_string() || word.as_string().empty()) field.refuse("a list of strings that are not empty");
      r.bad_words.push_back(word.as_string());
    }
  } else if (name == "bad_words_ids") {
    if (!value.is_list()) field.refuse("a list of lists of token ids");
    for (const Value& word : value.as_list()) {
      const std::vector<int32_t> ids = field.ids(word, "a list of lists of token ids");
      if (ids.empty()) field.refuse("lists of at least one token id");
      s.bad_words.push_back(static_cast<int32_t>(ids.size()));
      s.bad_words.insert(s.bad_words.end(), ids.begin(), ids.end());
    }
  } else if (name == "no_repeat_ngram_size") {
    s.no_repeat_ngram = field.id(value, "a whole number, 0 for none");
  } else if (name == "suppress_tokens") {
    s.suppress = field.ids(value, kIds);
  } else if (name == "begin_suppress_tokens") {
    s.begin_suppress = field.ids(value, kIds);
  } else if (name == "allowed_token_ids") {
    s.allowed = field.ids(value, kIds);
    if (s.allowed.empty()) field.refuse("at least one token id");
  } else if (name == "forced_bos_token_id") {
    r.forced_bos = field.id(value, "a token id");
  } else if (name == "forced_eos_token_id") {
    r.forced_eos = field.id(value, "a token id");
  } else if (name == "exponential_decay_length_penalty") {
    constexpr std::string_view kPair = "[start, factor]: tokens from 0 on, and a number above 0";
    if (!value.is_list() || value.as_list().size() != 2) field.refuse(kPair);
    const Value& factor = value.as_list()[1];
    r.decay_start = field.id(value.as_list()[0], kPair);
    if (!factor.is_number() || factor.is_bool() || !(factor.as_float() > 0 && factor.as_float() < 1e6))
      field.refuse(kPair);
    s.decay_factor = static_cast<float>(factor.as_float());
  } else if (name == "epsilon_cutoff") {
    s.epsilon_cutoff = field.share();
  } else if (name == "eta_cutoff") {
    s.eta_cutoff = field.share();
  } else if (name == "num_beams") {
    r.beams.width = field.id(value, "a number of beams, at least 1");
    if (r.beams.width < 1) field.refuse("a number of beams, at least 1");
  } else if (name == "length_penalty") {
    const double found = value.is_number() && !value.is_bool() ? value.as_float() : 1e9;
    if (!(std::abs(found) <= 1e3)) field.refuse("a number from -1000 to 1000");
    r.beams.length_penalty = static_cast<float>(found);
  } else {
    const bool never = value.is_string() && value.as_string() == "never";
    if (!never && !value.is_bool()) field.refuse("true, false or \"never\"");
    r.beams.early_stopping = never ? EarlyStopping::kNever : value.as_bool() ? EarlyStopping::kYes : EarlyStopping::kNo;
  }
  return true;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "engine/sequence_spec.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/grammar_compiler.h"
#include "engine/grammar_fields.h"

namespace sluice {
namespace {

constexpr int32_t kMaxChoices = 128;

void require(bool ok, const char* param, const std::string& message) {
  if (!ok) throw RequestError(RequestError::Kind::kValidation, message, param);
}

// A word is written with or without a space before it; both spellings are banned.
void add_bad_words(const GenerateRequest& r, const Tokenizer& tokenizer, SamplingParams& sampling) {
  const auto add = [&](const std::vector<int32_t>& ids) {
    if (ids.empty()) return;
    sampling.bad_words.push_back(static_cast<int32_t>(ids.size()));
    sampling.bad_words.insert(sampling.bad_words.end(), ids.begin(), ids.end());
  };
  for (const std::string& word : r.bad_words) {
    const std::vector<int32_t> bare = tokenizer.encode(word, false);
    const std::vector<int32_t> spaced = tokenizer.encode(word.front() == ' ' ? word.substr(1) : " " + word, false);
    add(bare);
    if (spaced != bare) add(spaced);
  }
}

// A single id that would end the answer may come, as in transformers.
void spare_eos(std::vector<int32_t>& words, const std::vector<int32_t>& eos) {
  std::vector<int32_t> kept;
  for (size_t i = 0; i < words.size();) {
    const auto next = i + 1 + static_cast<size_t>(words[i]);
    if (words[i] != 1 || std::ranges::find(eos, words[i + 1]) == eos.end())
      kept.insert(kept.end(), words.begin() + static_cast<std::ptrdiff_t>(i),
                  words.begin() + static_cast<std::ptrdiff_t>(next));
    i = next;
  }
  words = std::move(kept);
}

}  // namespace

void validate(const GenerateRequest& r, const ModelInfo& model, int64_t longest, int64_t encoder) {
  const SamplingParams& p = r.sampling;
  const auto n_prompt = static_cast<int64_t>(r.prompt.size());
  const int64_t vocab = model.vocab;
  require(n_prompt > 0, "prompt", "the prompt is empty: at least one token is needed");
  for (int32_t id : r.prompt)
    require(id >= 0 && id < vocab, "prompt",
            fmt::format("token id {} is not in the vocabulary of {} tokens", id, vocab));
  require(r.max_new_tokens > 0, "max_new_tokens",
          fmt::format("max_new_tokens must be at least 1, not {}", r.max_new_tokens));
  if (encoder > 0) {
    require(n_prompt <= encoder, "prompt",
            fmt::format("the prompt has {} tokens, but {} are the limit of the encoder's prompt", n_prompt, encoder));
    require(r.max_new_tokens < longest, "max_new_tokens",
            fmt::format("{} new tokens exceed the limit of {}", r.max_new_tokens, longest - 1));
    require(r.prompt_logprobs < 0, "prompt_logprobs",
            "the prompt goes to an encoder, which gives no log probabilities of its tokens; ask without them");
  } else {
    require(
        n_prompt < longest, "prompt",
        fmt::format("the prompt has {} tokens, but {} for prompt and answer together is the limit", n_prompt, longest));
    require(n_prompt + r.max_new_tokens <= longest, "max_new_tokens",
            fmt::format("{} prompt tokens and {} new ones exceed the limit of {}; at most {} new tokens fit", n_prompt,
                        r.max_new_tokens, longest, longest - n_prompt));
  }
  require(r.min_new_tokens >= 0 && r.min_new_tokens <= r.max_new_tokens, "min_new_tokens",
          fmt::format("min_new_tokens must be in 0..{} (max_new_tokens), not {}", r.max_new_tokens, r.min_new_tokens));
  require(r.n >= 1 && r.n <= kMaxChoices, "n", fmt::format("n must be in 1..{}, not {}", kMaxChoices, r.n));
  require(r.best_of >= r.n && r.best_of <= kMaxChoices, "best_of",
          fmt::format("best_of must be in {}..{} (n and the limit), not {}", r.n, kMaxChoices, r.best_of));
  require(p.greedy || p.temperature > 0, "temperature",
          fmt::format("temperature must be above 0, not {}", p.temperature));
  require(p.top_k >= 0, "top_k", fmt::format("top_k must not be negative, not {}", p.top_k));
  require(p.top_p > 0 && p.top_p <= 1, "top_p", fmt::format("top_p must be in (0, 1], not {}", p.top_p));
  require(p.min_p >= 0 && p.min_p <= 1, "min_p", fmt::format("min_p must be in [0, 1], not {}", p.min_p));
  require(p.typical_p > 0 && p.typical_p <= 1, "typical_p",
          fmt::format("typical_p must be in (0, 1], not {}", p.typical_p));
  require(p.repetition_penalty > 0, "repetition_penalty",
          fmt::format("repetition_penalty must be above 0, not {}", p.repetition_penalty));
  require(p.n_logprobs >= -1 && p.n_logprobs <= kMaxTopLogprobs, "logprobs",
          fmt::format("at most {} alternatives are reported, not {}", kMaxTopLogprobs, p.n_logprobs));
  require(r.prompt_logprobs >= -1 && r.prompt_logprobs <= kMaxTopLogprobs, "prompt_logprobs",
          fmt::format("at most {} alternatives are reported, not {}", kMaxTopLogprobs, r.prompt_logprobs));
  if (r.grammar.kind != GrammarSpec::Kind::kNone) {
    const auto alone = [&](bool absent, const char* what) {
      require(absent, kGrammarParam, fmt::format("{} cannot be combined with constrained output; leave one out", what));
    };
    alone(!r.ignore_eos, "ignore_eos");
    alone(r.min_new_tokens == 0, "a minimum of tokens");
    alone(p.no_repeat_ngram == 0, "no_repeat_ngram_size");
    alone(r.bad_words.empty() && p.bad_words.empty(), "bad_words");
    alone(p.suppress.empty() && p.begin_suppress.empty() && p.allowed.empty(), "suppressed or allowed tokens");
    alone(r.forced_bos < 0 && r.forced_eos < 0, "a forced token");
  }
  require(p.epsilon_cutoff >= 0 && p.epsilon_cutoff < 1, "epsilon_cutoff",
          fmt::format("epsilon_cutoff must be in [0, 1), not {}", p.epsilon_cutoff));
  require(p.eta_cutoff >= 0 && p.eta_cutoff < 1, "eta_cutoff",
          fmt::format("eta_cutoff must be in [0, 1), not {}", p.eta_cutoff));
  require(p.no_repeat_ngram >= 0, "no_repeat_ngram_size",
          fmt::format("no_repeat_ngram_size must not be negative, not {}", p.no_repeat_ngram));
  require(p.decay_factor > 0 && r.decay_start >= 0, "exponential_decay_length_penalty",
          fmt::format("exponential_decay_length_penalty needs a start from 0 on and a factor above 0, not {} and {}",
                      r.decay_start, p.decay_factor));
  const auto all_known = [&](const std::vector<int32_t>& ids, const char* param) {
    for (const int32_t id : ids)
      require(id >= 0 && id < vocab, param,
              fmt::format("{}: token id {} is not in the vocabulary of {} tokens", param, id, vocab));
  };
  all_known(r.stop_ids, "stop_token_ids");
  all_known(p.suppress, "suppress_tokens");
  all_known(p.begin_suppress, "begin_suppress_tokens");
  all_known(p.allowed, "allowed_token_ids");
  if (r.forced_bos != -1) all_known({r.forced_bos}, "forced_bos_token_id");
  if (r.forced_eos != -1) all_known({r.forced_eos}, "forced_eos_token_id");
  for (size_t i = 0; i < p.bad_words.size(); i += 1 + static_cast<size_t>(p.bad_words[i])) {
    const int32_t length = p.bad_words[i];
    require(length > 0 && static_cast<size_t>(length) < p.bad_words.size() - i, "bad_words_ids",
            "bad_words_ids: expected runs of at least one token id");
    all_known({p.bad_words.begin() + static_cast<std::ptrdiff_t>(i) + 1,
               p.bad_words.begin() + static_cast<std::ptrdiff_t>(i) + 1 + length},
              "bad_words_ids");
  }
}

void validate_beams(const GenerateRequest& r) {
  const SamplingParams& p = r.sampling;
  if (r.beams.width == 1) {
    const auto alone = [](bool asked, const char* name) {
      require(!asked, name, fmt::format("{} has no effect without beam search; leave it out", name));
    };
    alone(r.beams.length_penalty != 1.0f, "length_penalty");
    return alone(r.beams.early_stopping != EarlyStopping::kNo, "early_stopping");
  }
  const auto refuse = [](bool asked, const char* name, const std::string& what) {
    require(!asked, name, fmt::format("beam search cannot be combined with {}; leave one of them out", what));
  };
  require(r.beams.width >= r.n, "n",
          fmt::format("n must be at most the number of beams, {}, not {}", r.beams.width, r.n));
  refuse(r.best_of > r.n, "best_of", "best_of above n");
  refuse(!p.greedy, "temperature", "sampling: set temperature to 0");
  refuse(r.grammar.kind != GrammarSpec::Kind::kNone, kGrammarParam, "constrained output");
  refuse(p.n_logprobs > 0, "logprobs", "alternatives of tokens: ask for their own log probabilities alone");
}

void refuse_rare_processors(const GenerateRequest& r) {
  const SamplingParams& p = r.sampling;
  const auto refuse = [](bool asked, const char* name) {
    require(!asked, name, fmt::format("{} is not supported on this server's device; leave it out", name));
  };
  refuse(!r.bad_words.empty() || !p.bad_words.empty(), "bad_words");
  refuse(p.no_repeat_ngram > 0, "no_repeat_ngram_size");
  refuse(!p.suppress.empty(), "suppress_tokens");
  refuse(!p.begin_suppress.empty(), "begin_suppress_tokens");
  refuse(!p.allowed.empty(), "allowed_token_ids");
  refuse(r.forced_bos >= 0, "forced_bos_token_id");
  refuse(r.forced_eos >= 0, "forced_eos_token_id");
  refuse(p.decay_factor != 1.0f, "exponential_decay_length_penalty");
  refuse(p.epsilon_cutoff > 0, "epsilon_cutoff");
  refuse(p.eta_cutoff > 0, "eta_cutoff");
}

SequenceSpec sequence_spec(const GenerateRequest& r, const ModelInfo& model, const Tokenizer& tokenizer) {
  SequenceSpec spec;
  // An encoder takes the prompt; the decoder begins with its own first token.
  const bool encodes = model.decoder_start >= 0;
  spec.prompt = encodes ? std::vector<int32_t>{model.decoder_start} : r.prompt;
  if (encodes) spec.encoder = r.prompt;
  const auto n_prompt = static_cast<int64_t>(spec.prompt.size());
  spec.sampling = r.sampling;
  spec.max_new_tokens = r.max_new_tokens;
  if (!r.ignore_eos) spec.eos_ids = model.eos;
  spec.stop_ids = r.stop_ids;
  spec.prompt_scores = r.prompt_logprobs >= 0;
  spec.beams = r.beams;
  SamplingParams& s = spec.sampling;
  s.n_logprobs = std::max(s.n_logprobs, r.prompt_logprobs);  // the output thread leaves out what was not asked for
  if (r.min_new_tokens > 0) {
    s.eos_from = n_prompt + r.min_new_tokens;
    s.eos_ids = spec.eos_ids;
    s.eos_ids.insert(s.eos_ids.end(), spec.stop_ids.begin(), spec.stop_ids.end());
  }
  if (r.grammar.kind != GrammarSpec::Kind::kNone) s.grammar = pack_grammar(r.grammar);
  s.end_position = n_prompt + r.max_new_tokens;
  if (r.best_of > r.n) s.n_logprobs = std::max(0, s.n_logprobs);
  add_bad_words(r, tokenizer, s);
  spare_eos(s.bad_words, model.eos);
  s.begin_position = n_prompt;
  if (s.decay_factor != 1.0f) {
    s.decay_from = n_prompt + r.decay_start;
    s.decay_ids = model.eos;
  }
  std::ranges::sort(s.allowed);
  if (r.forced_bos >= 0 && n_prompt == 1) s.forced.push_back({1, r.forced_bos});
  if (r.forced_eos >= 0) s.forced.push_back({n_prompt + r.max_new_tokens - 1, r.forced_eos});
  return spec;
}

}  // namespace sluice

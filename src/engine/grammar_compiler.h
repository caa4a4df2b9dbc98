// SPDX-License-Identifier: Apache-2.0
// Grammars of one model, compiled once and kept while they are in use or recent. Thread-safe.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/spec.h"
#include "grammar/vocabulary.h"
#include "text/tokenizer.h"

namespace sluice {

class GrammarCompiler {
 public:
  // `vocab`: tokens that the model draws from; `eos`: ids that end an answer. The tokenizer outlives it.
  GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab, std::vector<int32_t> eos);

  // Throws RequestError(kValidation) with param "grammar".
  std::shared_ptr<const grammar::Automaton> compile(const GrammarSpec& spec);
  std::shared_ptr<const grammar::Vocabulary> vocabulary();  // made on first use

 private:
  struct Entry {
    GrammarSpec spec;
    std::shared_ptr<const grammar::Automaton> automaton;
  };
  const Tokenizer& tokenizer_;
  const int64_t vocab_;
  const std::vector<int32_t> eos_;
  std::mutex mutex_;  // the fields below
  std::shared_ptr<const grammar::Vocabulary> vocabulary_;
  std::list<Entry> recent_;  // the latest first
};

// As SamplingParams::grammar carries it.
std::vector<char> pack_grammar(const GrammarSpec& spec);
GrammarSpec unpack_grammar(std::span<const char> packed);

}  // namespace sluice

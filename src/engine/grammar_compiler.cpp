// SPDX-License-Identifier: Apache-2.0
#include "engine/grammar_compiler.h"

#include <algorithm>

#include "base/error.h"
#include "text/decoder.h"

namespace sluice {
namespace {

constexpr size_t kKept = 64;

[[noreturn]] void refuse(const char* why) { throw RequestError(RequestError::Kind::kValidation, why, "grammar"); }

}  // namespace

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab, std::vector<int32_t> eos)
    : tokenizer_(tokenizer), vocab_(vocab), eos_(std::move(eos)) {}

std::shared_ptr<const grammar::Vocabulary> GrammarCompiler::vocabulary() {
  std::lock_guard lock(mutex_);
  if (vocabulary_) return vocabulary_;
  const DecodeTable& table = tokenizer_.decode_table();
  if (!table.separator.empty())
    refuse("constrained output is not supported: this model's tokenizer puts a separator between tokens");
  if (eos_.empty()) refuse("constrained output is not supported: this model names no end-of-sequence token");
  std::vector<std::string> texts(static_cast<size_t>(vocab_));
  for (size_t id = 0; id < std::min(texts.size(), table.size()); ++id)
    if (table.special[id] == 0) texts[id] = table.text(id);
  vocabulary_ = std::make_shared<grammar::Vocabulary>(std::move(texts), eos_);
  if (vocabulary_->ends().empty()) refuse("constrained output is not supported: the end-of-sequence token is unknown");
  return vocabulary_;
}

std::shared_ptr<const grammar::Automaton> GrammarCompiler::compile(const GrammarSpec& spec) {
  const std::shared_ptr<const grammar::Vocabulary> words = vocabulary();
  {
    std::lock_guard lock(mutex_);
    for (auto it = recent_.begin(); it != recent_.end(); ++it) {
      if (it->spec.kind != spec.kind || it->spec.text != spec.text) continue;
      recent_.splice(recent_.begin(), recent_, it);
      return it->automaton;
    }
  }
  std::shared_ptr<const grammar::Automaton> automaton = grammar::compile(spec, *words);
  std::lock_guard lock(mutex_);
  recent_.push_front({spec, automaton});
  if (recent_.size() > kKept) recent_.pop_back();
  return automaton;
}

std::vector<char> pack_grammar(const GrammarSpec& spec) {
  std::vector<char> packed(1 + spec.text.size());
  packed[0] = static_cast<char>(spec.kind);
  std::ranges::copy(spec.text, packed.begin() + 1);
  return packed;
}

GrammarSpec unpack_grammar(std::span<const char> packed) {
  check(!packed.empty() && packed[0] > 0 && packed[0] <= static_cast<char>(GrammarSpec::Kind::kEbnf),
        "a grammar of unknown kind");
  return {static_cast<GrammarSpec::Kind>(packed[0]), std::string(packed.begin() + 1, packed.end())};
}

}  // namespace sluice

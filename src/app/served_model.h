// SPDX-License-Identifier: Apache-2.0
// What is served: a checkpoint, a random shape, or the null model; with its tokenizer and chat template. No weights.
#pragma once

#include <memory>
#include <string>

#include "app/options.h"
#include "engine/grammar_compiler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice {

struct ServedModel {
  ModelSource source;
  ModelInfo info;  // from the config alone
  bool null = false;
  double null_rate = 0;  // steps per second of the null model; 0: as fast as they go
  std::string name;      // as the user gave it
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat;         // null when the model has none
  std::shared_ptr<GrammarCompiler> grammars;  // null for the null model
  std::string no_tokenizer;                   // why tokenizer, chat and grammars are null; empty where they are not
};

// Throws Error; with `look` not for a tokenizer that is missing or damaged.
ServedModel read_served_model(const Settings& settings, bool look = false);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// A prompt file: one prompt per line. JSON objects and JSON strings where the first line that is not blank starts with
// '{' or '"', plain text otherwise; OpenAI's batch format where that line has "body" and "url". Only line offsets are
// kept in memory. Owned by one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/request.h"
#include "text/value.h"

namespace sluice {

// What a line asks for. A bad line carries `error` and nothing else that counts.
struct Prompt {
  int64_t index = 0;        // line among the non-blank ones, from 0
  int64_t line = 0;         // line number in the file, from 1
  std::string text;         // plain prompt; unused when messages is a list
  Value messages;           // chat messages, or null
  Value id;                 // "id" or "custom_id" of the line, or null
  Dict parameters;          // as the line gives them
  GenerateRequest request;  // parameters only: the prompt's tokens are filled in by the runner
  std::string url, body;    // of OpenAI's batch format: "/v1/chat/completions" and a JSON object; empty otherwise
  bool openai = false;      // the file is in that format
  std::string error;
};

class PromptFile {
 public:
  // Throws Error when the file cannot be read or holds no prompt.
  explicit PromptFile(const std::filesystem::path& path);
  uint64_t hash() const { return hash_; }  // of the whole file
  int64_t size() const { return static_cast<int64_t>(lines_.size()); }
  std::string raw(int64_t index) const;  // the line's bytes, without its end
  // `defaults` are the parameters of lines that say nothing. Keys of a line: prompt | messages, id | custom_id,
  // max_tokens | max_new_tokens, min_tokens, temperature, top_p, top_k, min_p, typical_p, repetition_penalty,
  // frequency_penalty, presence_penalty, do_sample, seed, stop, ignore_eos, and those of
  // engine/sampling_fields.h and engine/grammar_fields.h; the same inside "parameters".
  // Any other key is an error of that line, named. A line of OpenAI's format has custom_id, method, url and body.
  Prompt read(int64_t index, const GenerateRequest& defaults) const;

 private:
  struct Line {
    uint64_t offset;
    uint32_t bytes;
    uint32_t number;
  };
  File file_;
  std::vector<Line> lines_;
  uint64_t hash_ = 0;
  bool json_ = false, openai_ = false;
};

}  // namespace sluice

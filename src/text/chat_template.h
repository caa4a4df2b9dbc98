// SPDX-License-Identifier: Apache-2.0
// A model's chat templates: Jinja as transformers runs it (trim_blocks, lstrip_blocks, sandbox, tojson of Python).
// Immutable after loading; render may be called from several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/value.h"

namespace sluice {

struct ChatInput {
  Value messages;                       // list of {"role", "content", ...}; content a string or a list of parts
  Value tools;                          // list of JSON-schema dicts, or null
  Value documents;                      // list of {"title", "text"}, or null
  bool add_generation_prompt = true;    // end with the header of the assistant's turn
  bool continue_final_message = false;  // leave the last message open; excludes add_generation_prompt
  std::string name;                     // named template; empty: "tool_use" with tools where it exists, else "default"
  Dict variables;                       // further variables (enable_thinking, ...); override special tokens
  int64_t max_steps = 5'000'000;        // statements and expressions that it may take
};

class ChatTemplate {
 public:
  // chat_template.jinja and additional_chat_templates/*.jinja, else chat_template of tokenizer_config.json, else
  // chat_template.json. nullptr when the model has none. Throws Error where a template does not parse.
  static std::unique_ptr<ChatTemplate> load(const std::filesystem::path& model_dir);
  // One template named "default". `origin` names it in errors.
  static std::unique_ptr<ChatTemplate> from_text(std::string_view source, Dict special_tokens = {},
                                                 const std::string& origin = "chat template");
  // What --chat-template names: one of builtin_templates(), else a file. Throws Error naming the built-in ones.
  static std::unique_ptr<ChatTemplate> choose(const std::string& name_or_file, Dict special_tokens);
  ~ChatTemplate();

  // The prompt; encode it with add_special = false, because templates write their own BOS.
  // Throws RequestError(kTemplate): raise_exception, a failing operation, or a limit on steps, depth or output.
  std::string render(const ChatInput& input) const;
  std::vector<std::string> names() const;
  const std::string& source(std::string_view name = "default") const;
  // False when the template only handles plain strings as content: parts must be joined first.
  bool takes_content_parts(std::string_view name = "default") const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// What was said so far. Pure.
#pragma once

#include <filesystem>
#include <string>

#include "text/value.h"

namespace sluice {

class Conversation {
 public:
  const std::string& system() const { return system_; }
  void set_system(std::string text);  // begins anew
  void reset();                       // keeps the system prompt

  void add(const char* role, const std::string& content);
  void drop_last();  // the last message, not the system prompt
  // Takes back the last question with its answer; returns the question, empty when there is none.
  std::string undo();

  const List& messages() const { return messages_; }
  size_t said() const { return messages_.size() - (system_.empty() ? 0 : 1); }  // without the system prompt

  // {"model", "messages"}: also the body of a request to /v1/chat/completions. Private (0600), replaced whole.
  void save(const std::filesystem::path& path, const std::string& model) const;
  // What save() wrote, or a list of messages alone. Throws Error and changes nothing when it is neither.
  void load(const std::filesystem::path& path);

 private:
  std::string system_;
  List messages_;  // {"role", "content"}, the system prompt first
};

}  // namespace sluice

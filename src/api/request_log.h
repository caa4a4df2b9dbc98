// SPDX-License-Identifier: Apache-2.0
// One JSON line per HTTP exchange, written when its reply is complete or its client has gone. Prompts are in it only
// when that was asked for.
#pragma once

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

#include "api/http.h"
#include "text/tokenizer.h"

namespace sluice {

class RequestLog {
 public:
  // `path`: appended to, mode 0600 when new; "-" is standard error. Throws Error when it cannot be opened.
  RequestLog(const std::string& path, bool prompts);
  ~RequestLog();

  // Makes the reply keep an account, before the route runs.
  void open(Reply& reply) const;
  // Writes the line: at once, or at the end of the reply's stream. `tokenizer` may be null; it outlives the reply.
  void close(const HttpRequest& request, std::string_view dialect, Reply& reply, const Tokenizer* tokenizer) const;

 private:
  struct Line;
  void write(const Line& line) const;
  std::FILE* file_ = nullptr;
  bool owned_ = false, prompts_ = false;
  mutable std::mutex mutex_;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "chat/line_source.h"

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace sluice {
namespace {

class PlainLines : public LineSource {
 public:
  PlainLines(int wake, bool show_prompt) : wake_(wake), show_prompt_(show_prompt) {}

  Outcome read(const std::string& prompt, std::string& line) override {
    if (show_prompt_) {
      std::fwrite(prompt.data(), 1, prompt.size(), stdout);
      std::fflush(stdout);
    }
    for (;;) {
      if (const size_t at = pending_.find('\n'); at != std::string::npos) {
        line = pending_.substr(0, at);
        pending_.erase(0, at + 1);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return Outcome::kLine;
      }
      if (ended_) {
        if (pending_.empty()) return Outcome::kEnd;
        line = std::exchange(pending_, {});
        return Outcome::kLine;
      }
      pollfd wait[2] = {{STDIN_FILENO, POLLIN, 0}, {wake_, POLLIN, 0}};
      if (::poll(wait, 2, -1) < 0) continue;
      if (wait[1].revents != 0) return Outcome::kInterrupted;
      if (wait[0].revents == 0) continue;
      char bytes[4096];
      const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (n <= 0) {
        ended_ = true;
      } else {
        pending_.append(bytes, static_cast<size_t>(n));
      }
    }
  }

 private:
  const int wake_;
  const bool show_prompt_;
  bool ended_ = false;
  std::string pending_;
};

}  // namespace

bool is_able_terminal() {
  const char* kind = std::getenv("TERM");
  return ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0 && kind != nullptr &&
         std::strcmp(kind, "dumb") != 0;
}

std::unique_ptr<LineSource> plain_lines(int wake, bool show_prompt) {
  return std::make_unique<PlainLines>(wake, show_prompt);
}

}  // namespace sluice

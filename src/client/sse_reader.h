// SPDX-License-Identifier: Apache-2.0
// Event streams as they arrive in pieces: server-sent events, and lines of JSON. Pure, one object per stream.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace sluice {

// Calls `on_line` with each whole line, without its end (LF or CRLF). The view is valid during the call.
class LineReader {
 public:
  using OnLine = std::function<void(std::string_view)>;
  void feed(std::string_view bytes, const OnLine& on_line);
  void finish(const OnLine& on_line);  // the last line may lack its end

 private:
  std::string held_;
};

// Calls `on_data` with the data of each event: its data lines joined by LF, one leading space stripped. Comments and
// other fields are passed over. An event ends with a blank line.
class SseReader {
 public:
  using OnData = std::function<void(std::string_view)>;
  void feed(std::string_view bytes, const OnData& on_data);

 private:
  void line(std::string_view text, const OnData& on_data);
  LineReader lines_;
  std::string data_;
  bool any_ = false;
};

}  // namespace sluice

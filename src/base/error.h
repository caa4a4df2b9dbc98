// SPDX-License-Identifier: Apache-2.0
// The three kinds of error. Whose mistake it is decides the type.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace sluice {

// The user's configuration, file or environment. Thrown while starting; printed as one line, exit code 2.
// The message says what was expected, what was found and what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

// One user's request. A dialect turns it into its own 4xx shape; the server lives on.
class RequestError : public std::runtime_error {
 public:
  enum class Kind {
    kMalformed,     // the body cannot be read as what the route expects (400 or 422)
    kValidation,    // a field is out of range (422 in TGI, 400 in OpenAI)
    kTemplate,      // the chat template refused the messages
    kUnknownModel,  // the request names a model that is not served (404)
    kTooLarge,      // the body exceeds the limit (413)
    kOverloaded,    // the queue is full (429)
    kUnavailable,   // loading or draining (503)
    kGeneration,    // the engine lost the request (424 or 500)
  };
  RequestError(Kind kind, const std::string& message, std::string param = {})
      : std::runtime_error(message), kind_(kind), param_(std::move(param)) {}
  Kind kind() const { return kind_; }
  const std::string& param() const { return param_; }  // the field at fault, empty when it is the whole body

 private:
  Kind kind_;
  std::string param_;
};

// Names this process in fatal messages, for instance "rank 3 of 4 on n2, job 1234". Set once at start.
void set_process_name(std::string name);
const std::string& process_name();

// The caller's place, as a default argument.
struct CodePlace {
  const char* file;
  int line;
  static constexpr CodePlace here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// Called by fatal() before the process aborts, once; lets the rank tell its peers and mark its record.
void set_fatal_hook(void (*hook)(std::string_view message));

// Our own bug, or a device or peer that failed beyond repair: prints message, place and process name, runs the hook,
// aborts.
[[noreturn]] void fatal(std::string_view message, CodePlace where = CodePlace::here());

inline void check(bool ok, std::string_view message, CodePlace where = CodePlace::here()) {
  if (!ok) [[unlikely]]
    fatal(message, where);
}

}  // namespace sluice

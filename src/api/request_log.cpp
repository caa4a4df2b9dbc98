// SPDX-License-Identifier: Apache-2.0
#include "api/request_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cmath>
#include <ctime>

#include "api/json.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice {
namespace {

std::string timestamp(double wall) {
  const auto seconds = static_cast<time_t>(std::floor(wall));
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, static_cast<int>((wall - std::floor(wall)) * 1000));
}

}  // namespace

// What is known when the route has run. Written when the last owner goes, which for a stream is its closure.
struct RequestLog::Line {
  Line(const RequestLog& l) : log(l) {}
  ~Line() { log.write(*this); }
  const RequestLog& log;
  std::string id, method, path, dialect;
  double arrived = 0;  // monotonic seconds
  int status = 0;
  bool stream = false;
  std::shared_ptr<Account> account;
  const Tokenizer* tokenizer = nullptr;
};

RequestLog::RequestLog(const std::string& path, bool prompts) : file_(stderr), prompts_(prompts) {
  if (path == "-") return;
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  file_ = descriptor < 0 ? nullptr : ::fdopen(descriptor, "a");
  if (file_ == nullptr)
    throw Error(
        fmt::format("request-log: '{}' cannot be opened for appending; name a file in a folder that exists", path));
  owned_ = true;
}

RequestLog::~RequestLog() {
  if (owned_) std::fclose(file_);
}

void RequestLog::open(Reply& reply) const {
  reply.account = std::make_shared<Account>();
  reply.account->keep_prompts = prompts_;
}

void RequestLog::close(const HttpRequest& request, std::string_view dialect, Reply& reply,
                       const Tokenizer* tokenizer) const {
  auto line = std::make_shared<Line>(*this);
  line->id = request.id;
  line->method = request.method;
  line->path = request.path;
  line->dialect = dialect;
  line->arrived = request.arrived;
  line->status = reply.status;
  line->account = reply.account;
  line->tokenizer = tokenizer;
  if (!reply.stream) return;
  line->stream = true;
  // Members go in reverse order: the stream first, which settles its account, then the line.
  reply.stream = [line, inner = std::move(reply.stream)](std::string& out) { return inner(out); };
}

void RequestLog::write(const Line& line) const {
  std::string out = "{\"time\":\"" + timestamp(wall_seconds()) + "\",\"id\":";
  append_json_string(out, line.id);
  out += ",\"method\":";
  append_json_string(out, line.method);
  out += ",\"path\":";
  append_json_string(out, line.path);
  out += ",\"dialect\":";
  append_json_string(out, line.dialect);
  out += fmt::format(",\"status\":{},\"stream\":{},\"seconds\":{:.6f}", line.status, line.stream,
                     monotonic_seconds() - line.arrived);
  const Account& a = *line.account;
  std::lock_guard account_lock(line.account->mutex);
  if (a.requests > 0) {
    out += fmt::format(
        ",\"requests\":{},\"complete\":{},\"prompt_tokens\":{},\"cached_tokens\":{},\"generated_tokens\":{},"
        "\"queue_seconds\":{:.6f},\"prefill_seconds\":{:.6f},\"decode_seconds\":{:.6f}",
        a.requests, a.finished == a.requests, a.prompt_tokens, a.cached_tokens, a.generated_tokens, a.queue_seconds,
        a.prefill_seconds, a.decode_seconds);
  }
  if (!a.prompts.empty() && line.tokenizer != nullptr) {
    out += ",\"prompts\":[";
    for (const auto& prompt : a.prompts) {
      if (out.back() != '[') out += ',';
      append_json_string(out, line.tokenizer->decode(prompt, false));
    }
    out += ']';
  }
  out += "}\n";
  std::lock_guard lock(mutex_);
  std::fwrite(out.data(), 1, out.size(), file_);
  std::fflush(file_);
}

}  // namespace sluice

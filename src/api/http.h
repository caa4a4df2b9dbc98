// SPDX-License-Identifier: Apache-2.0
// A request and its reply as a dialect sees them: no socket, no thread. Owned by the connection that carries them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

// Names compare without case; the first of several equal names counts.
class Headers {
 public:
  void add(std::string name, std::string value) { items_.emplace_back(std::move(name), std::move(value)); }
  std::string_view get(std::string_view name) const;  // empty when absent
  const std::vector<std::pair<std::string, std::string>>& items() const { return items_; }

 private:
  std::vector<std::pair<std::string, std::string>> items_;
};

struct HttpRequest {
  std::string method;                  // upper case
  std::string path;                    // decoded, without the query
  std::vector<std::string> arguments;  // what the route's {} stand for
  Headers headers;
  std::string body;
  std::string id;        // x-request-id as given, else drawn
  double arrived = 0;    // monotonic seconds
  bool is_json() const;  // content-type application/json or application/*+json
};

// What one exchange cost, for the request log; filled by whoever runs its engine requests.
struct Account {
  std::mutex mutex;  // of all that follows
  bool keep_prompts = false;
  int32_t requests = 0, finished = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;  // the longest of the requests
  std::vector<std::vector<int32_t>> prompts;                          // only when kept
};

struct Reply {
  int status = 200;
  Headers headers;  // content-type included
  std::string body;

  // A streamed body, used when set: appends all that there is to `out`, without waiting; false at the end. Called by
  // one thread at a time, once at first and again whenever `ready` was called.
  std::function<bool(std::string& out)> stream;
  std::string_view keep_alive;  // of a stream: goes out where nothing else does for long; constant text, may be empty

  // Set by the server, any thread may call it at any time: `stream` may have something to append. Does not block.
  std::function<void()> ready;

  // Set by the server. Registers a function that is called at most once, from another thread, when the client goes away
  // before the reply is complete. It must not block.
  std::function<void(std::function<void()>)> when_gone;

  std::shared_ptr<Account> account;  // set by the server when there is a request log

  void content(int code, std::string type, std::string text) {
    status = code;
    headers.add("content-type", std::move(type));
    body = std::move(text);
  }
  void json(int code, std::string text) { content(code, "application/json", std::move(text)); }
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// A blocking HTTP/1.1 client over plain TCP, one connection kept between requests. For one thread.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/http_reader.h"

namespace sluice {

struct Url {
  std::string host;
  int port = 80;
  std::string path;  // "" or "/..." without a final slash
  // "http://host[:port][/path]", also without the scheme, or "unix:/path" (kept in host). Throws Error; https too.
  static Url parse(std::string_view text);
  std::string text() const;
};

// Opens a TCP connection; throws Error naming host, port and the system's reason.
int connect_to(const Url& url, double seconds);
// The bytes of a request with Host and Content-Length.
std::string request_text(const Url& url, std::string_view method, std::string_view path,
                         const std::vector<std::pair<std::string, std::string>>& headers, std::string_view body);

struct ClientReply {
  ReplyHead head;
  std::string body;  // empty when a body callback took it
};

class HttpClient {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  // `key`, where not empty, is sent as a bearer token.
  explicit HttpClient(Url url, std::string key = {});
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  double connect_seconds = 10;   // limit for the connection
  double silence_seconds = 600;  // longest wait for the next bytes
  // Where set, looked at while waiting for the reply: once true, the request ends as if `on_body` had returned false;
  // the status is 0 when no head came.
  const std::atomic<bool>* stop = nullptr;

  // `path` is appended to the URL's own. With `on_body` the body of a 2xx reply goes there in pieces as it arrives;
  // false ends the request and the connection. Throws Error when the server cannot be reached or breaks off.
  ClientReply send(std::string_view method, std::string_view path, const Headers& headers = {},
                   std::string_view body = {}, const HttpReader::OnBody& on_body = {});
  ClientReply get(std::string_view path) { return send("GET", path); }
  ClientReply post_json(std::string_view path, std::string_view body, const HttpReader::OnBody& on_body = {});

 private:
  bool stopped() const { return stop != nullptr && *stop; }
  bool wait_reply() const;
  bool try_send(std::string_view text, bool head, const HttpReader::OnBody& on_body, ClientReply& reply);
  void close();
  Url url_;
  std::string key_;
  int fd_ = -1;
};

}  // namespace sluice

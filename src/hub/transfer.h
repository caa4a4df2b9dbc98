// SPDX-License-Identifier: Apache-2.0
// HTTP GETs over libcurl, several at once on one thread. Redirects are left to the caller, who knows where a token may
// go; proxies and certificates are as the environment says (http_proxy, https_proxy, no_proxy, SSL_CERT_FILE).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace sluice {

struct Get {
  std::string url;
  std::string bearer;  // token, or empty
  uint64_t first = 0;  // bytes wanted: [first, last]
  int64_t last = -1;   // -1: the whole, without a Range header
};

struct GetResult {
  long status = 0;                             // 0: no answer, see `error`
  std::map<std::string, std::string> headers;  // of the last answer, names in lower case
  std::string error;                           // transport error in words, empty when the transfer ended well
  bool local = false;                          // the listener stopped it
  bool lasting = false;                        // an error that no second try cures: a proxy's refusal, a certificate
};

// Told by poll(), on the caller's thread.
class GetListener {
 public:
  virtual ~GetListener() = default;
  // Before the first byte. False: the body is not wanted, the transfer ends.
  virtual bool on_headers(const GetResult& so_far) = 0;
  virtual bool on_data(const char* bytes, size_t n) = 0;  // false ends the transfer
  virtual void on_end(const GetResult& result) = 0;       // last call; the listener may be destroyed in it
};

class Transfers {
 public:
  Transfers();
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  void start(const Get& get, GetListener& listener);  // the listener lives until on_end or the end of this object
  void stop();                                        // ends what runs without telling the listeners
  size_t running() const;
  void poll(int timeout_ms);  // moves bytes, calls listeners; returns at the latest after the timeout
  void wake();                // ends poll()'s waiting; any thread

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One small answer, whole. `limit`: bytes; a longer body is an error.
struct Answer {
  GetResult result;
  std::string body;
};
Answer get_whole(Transfers& transfers, const Get& get, size_t limit);

// "https://host[:port]" of a URL; and an absolute URL from a Location header.
std::string url_origin(const std::string& url);
std::string resolve_location(const std::string& base, const std::string& location);
std::string url_quote(const std::string& text, bool keep_slashes);

}  // namespace sluice

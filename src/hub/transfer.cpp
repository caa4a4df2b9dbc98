// SPDX-License-Identifier: Apache-2.0
#include "hub/transfer.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {
constexpr long kBufferBytes = 256 * 1024;  // of one connection
constexpr long kConnectSeconds = 30;
constexpr long kStallSeconds = 60;  // without a byte

// Where distributions keep their certificates; a copied release may have been linked for another's.
const char* certificate_file() {
  for (const char* variable : {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}) {
    if (const char* value = std::getenv(variable); value != nullptr && *value != '\0') return value;
  }
  for (const char* path : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    if (::access(path, R_OK) == 0) return path;
  }
  return nullptr;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

struct Running {
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  GetListener* listener = nullptr;
  GetResult result;
  bool body_begun = false;
  char reason[CURL_ERROR_SIZE] = {};

  ~Running() {
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }

  bool begin_body() {
    if (body_begun) return true;
    body_begun = true;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &result.status);
    return listener->on_headers(result);
  }

  static size_t on_header(char* bytes, size_t, size_t n, void* self) {
    auto& running = *static_cast<Running*>(self);
    const std::string line(bytes, n);
    if (line.starts_with("HTTP/")) running.result.headers.clear();
    const size_t colon = line.find(':');
    if (colon != std::string::npos) {
      size_t begin = colon + 1, end = line.size();
      while (begin < end && std::isspace(static_cast<unsigned char>(line[begin])) != 0) ++begin;
      while (end > begin && std::isspace(static_cast<unsigned char>(line[end - 1])) != 0) --end;
      running.result.headers[lower(line.substr(0, colon))] = line.substr(begin, end - begin);
    }
    return n;
  }
  static size_t on_body(char* bytes, size_t, size_t n, void* self) {
    auto& running = *static_cast<Running*>(self);
    if (running.begin_body() && running.listener->on_data(bytes, n)) return n;
    running.result.local = true;
    return 0;
  }
};

bool is_lasting(CURL* easy, CURLcode code) {
  long connect_status = 0;
  curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &connect_status);
  return (connect_status >= 400 && connect_status < 500 && connect_status != 408 && connect_status != 429) ||
         code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE;
}

std::string explain(CURL* easy, CURLcode code, const char* reason) {
  long connect_status = 0;
  curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &connect_status);
  std::string words = *reason != '\0' ? reason : curl_easy_strerror(code);
  if (connect_status >= 300) {
    return fmt::format(
        "the proxy of https_proxy answers {} to a connection to that host; it lets only some hosts through (ask your "
        "site, or download where there is direct internet)",
        connect_status);
  }
  if (code == CURLE_COULDNT_RESOLVE_PROXY) return words + " (see http_proxy and https_proxy)";
  if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
    return words + " (SSL_CERT_FILE names the file of certificates)";
  return words;
}
}  // namespace

struct Transfers::Impl {
  CURLM* multi = nullptr;
  std::set<Running*> running;
  const char* certificates = certificate_file();

  void stop() {
    for (Running* one : running) {
      curl_multi_remove_handle(multi, one->easy);
      delete one;
    }
    running.clear();
  }
  ~Impl() {
    stop();
    curl_multi_cleanup(multi);
  }
};

Transfers::Transfers() : impl_(std::make_unique<Impl>()) {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_DEFAULT);
  check(once == CURLE_OK, "curl_global_init failed");
  impl_->multi = curl_multi_init();
  check(impl_->multi != nullptr, "curl_multi_init failed");
}
Transfers::~Transfers() = default;
void Transfers::stop() { impl_->stop(); }
size_t Transfers::running() const { return impl_->running.size(); }

void Transfers::start(const Get& get, GetListener& listener) {
  auto* one = new Running;
  one->listener = &listener;
  one->easy = curl_easy_init();
  check(one->easy != nullptr, "curl_easy_init failed");
  CURL* easy = one->easy;
  curl_easy_setopt(easy, CURLOPT_URL, get.url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "sluice");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kBufferBytes);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, one->reason);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, one);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &Running::on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, one);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &Running::on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, one);
  if (impl_->certificates != nullptr) curl_easy_setopt(easy, CURLOPT_CAINFO, impl_->certificates);
  one->headers = curl_slist_append(nullptr, "Accept-Encoding: identity");
  if (!get.bearer.empty()) {
    one->headers = curl_slist_append(one->headers, fmt::format("Authorization: Bearer {}", get.bearer).c_str());
  }
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, one->headers);
  if (get.last >= 0) curl_easy_setopt(easy, CURLOPT_RANGE, fmt::format("{}-{}", get.first, get.last).c_str());
  impl_->running.insert(one);
  check(curl_multi_add_handle(impl_->multi, easy) == CURLM_OK, "curl_multi_add_handle failed");
}

void Transfers::poll(int timeout_ms) {
  int active = 0;
  curl_multi_perform(impl_->multi, &active);
  int left = 0;
  bool ended = false;
  while (CURLMsg* message = curl_multi_info_read(impl_->multi, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    ended = true;
    const CURLcode code = message->data.result;
    Running* one = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &one);
    curl_easy_getinfo(one->easy, CURLINFO_RESPONSE_CODE, &one->result.status);
    if (code != CURLE_OK && !one->result.local) {
      one->result.error = explain(one->easy, code, one->reason);
      one->result.lasting = is_lasting(one->easy, code);
    }
    if (code == CURLE_OK) one->begin_body();  // an answer without a body
    curl_multi_remove_handle(impl_->multi, one->easy);
    impl_->running.erase(one);
    const GetResult result = std::move(one->result);
    GetListener* listener = one->listener;
    delete one;
    listener->on_end(result);
  }
  if (!ended) curl_multi_poll(impl_->multi, nullptr, 0, timeout_ms, nullptr);
}

void Transfers::wake() { curl_multi_wakeup(impl_->multi); }

namespace {
struct Whole : GetListener {
  Answer answer;
  size_t limit = 0;
  bool done = false;
  bool on_headers(const GetResult&) override { return true; }
  bool on_data(const char* bytes, size_t n) override {
    if (answer.body.size() + n > limit) return false;
    answer.body.append(bytes, n);
    return true;
  }
  void on_end(const GetResult& result) override {
    answer.result = result;
    if (result.local) answer.result.error = fmt::format("the answer is longer than {} bytes", limit);
    done = true;
  }
};
}  // namespace

Answer get_whole(Transfers& transfers, const Get& get, size_t limit) {
  Whole whole;
  whole.limit = limit;
  transfers.start(get, whole);
  while (!whole.done) transfers.poll(500);
  return std::move(whole.answer);
}

std::string url_origin(const std::string& url) {
  const size_t scheme = url.find("://");
  if (scheme == std::string::npos) return {};
  return lower(url.substr(0, url.find_first_of("/?#", scheme + 3)));
}

std::string resolve_location(const std::string& base, const std::string& location) {
  if (location.find("://") != std::string::npos) return location;
  if (location.starts_with("//")) return base.substr(0, base.find("://") + 1) + location;
  if (location.starts_with("/")) return url_origin(base) + location;
  const std::string path = base.substr(0, base.find_first_of("?#"));
  return path.substr(0, path.rfind('/') + 1) + location;
}

std::string url_quote(const std::string& text, bool keep_slashes) {
  std::string out;
  for (const unsigned char c : text) {
    if (std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '~' || (keep_slashes && c == '/')) {
      out += static_cast<char>(c);
    } else {
      out += fmt::format("%{:02X}", c);
    }
  }
  return out;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "client/load.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/error.h"
#include "client/http_client.h"
#include "client/sse_reader.h"

namespace sluice {
namespace {
constexpr size_t kWordsOfFailure = 160;  // bytes of a refusal that are kept

struct Stream {
  enum class State { kIdle, kConnecting, kSending, kReading };
  int fd = -1;
  State state = State::kIdle;
  HttpReader reader;
  SseReader events;
  LineReader lines;
  std::string out, whole;
  LoadReply reply;
  size_t sent = 0;
  int64_t serial = 0, pieces = 0;
  bool answered = false;
  double arrived = 0;
  double began = 0, written = 0, first = 0, last = 0, heard = 0;  // monotonic seconds
};

class Loop {
 public:
  explicit Loop(const LoadOptions& options) : options_(options), url_(Url::parse(options.url)) {
    addrinfo hints{}, *list = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    int failed = getaddrinfo(url_.host.c_str(), std::to_string(url_.port).c_str(), &hints, &list);
    if (failed != 0) throw Error(fmt::format("cannot find host {}: {}", url_.host, gai_strerror(failed)));
    std::memcpy(&address_, list->ai_addr, list->ai_addrlen);
    address_size_ = list->ai_addrlen;
    freeaddrinfo(list);
    const uint64_t descriptors = raise_descriptor_limit();
    if (static_cast<uint64_t>(options.streams) + 64 > descriptors)
      throw Error(fmt::format("{} streams need more file descriptors than the {} allowed; raise ulimit -n",
                              options.streams, descriptors));
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    check(epoll_ >= 0, "epoll_create1 failed");
    streams_.resize(static_cast<size_t>(options.streams));
    for (Stream& s : streams_) idle_.push_back(&s);
  }
  ~Loop() {
    for (Stream& s : streams_) close(s);
    ::close(epoll_);
  }

  LoadReport run() {
    start_ = ended_ = monotonic_seconds();
    next_arrival_ = options_.rate > 0 ? start_ + gap() : 0;
    if (options_.rate <= 0)
      for (Stream& s : streams_) begin(s);
    std::vector<epoll_event> events(256);
    double swept = start_;
    while (active_ > 0 || (options_.rate > 0 && more())) {
      int n = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), patience());
      for (int i = 0; i < n; ++i) {
        const epoll_event& event = events[static_cast<size_t>(i)];
        handle(streams_[event.data.u64], event.events);
      }
      const double now = monotonic_seconds();
      if (options_.rate > 0) arrive(now);
      if (now - swept < 0.5) continue;
      swept = now;
      for (Stream& s : streams_)
        if (s.state != Stream::State::kIdle && now - s.heard > options_.silence_seconds) fail(s, "no bytes in time");
    }
    report_.seconds = ended_ - start_;
    report_.tokens_per_second = static_cast<double>(report_.tokens) / std::max(report_.seconds, 1e-9);
    report_.requests_per_second = static_cast<double>(report_.finished) / std::max(report_.seconds, 1e-9);
    report_.connect = percentiles(connect_);
    report_.ttft = percentiles(ttft_);
    report_.itl = percentiles(itl_);
    report_.tpot = percentiles(tpot_);
    report_.e2e = percentiles(e2e_);
    return report_;
  }

 private:
  bool more() const {
    if (options_.requests > 0 && report_.started >= options_.requests) return false;
    return options_.seconds <= 0 || monotonic_seconds() - start_ < options_.seconds;
  }

  // Exponential gaps make a Poisson process.
  double gap() { return std::exponential_distribution<double>(options_.rate)(random_); }

  // Milliseconds until something is due.
  int patience() const {
    if (options_.rate <= 0) return 100;
    return static_cast<int>(std::clamp((next_arrival_ - monotonic_seconds()) * 1e3 + 0.5, 0.0, 100.0));
  }

  void arrive(double now) {
    while (next_arrival_ <= now && more()) {
      if (idle_.empty()) {
        if (!waiting_) ++report_.late;
        waiting_ = true;
        return;
      }
      waiting_ = false;
      Stream& s = *idle_.back();
      idle_.pop_back();
      s.arrived = next_arrival_;
      next_arrival_ += gap();
      begin(s);
    }
  }

  // What follows the end of a request: the next one in a closed loop.
  void next(Stream& s) {
    if (options_.rate <= 0) return begin(s);
    s.state = Stream::State::kIdle;
    idle_.push_back(&s);
  }

  std::string body(int64_t serial) const {
    if (options_.prompts.empty())
      return load_body(options_.api, options_.model,
                       {synthetic_prompt(options_.first_serial + serial, options_.prompt_words), ""},
                       options_.max_tokens);
    const auto n = static_cast<int64_t>(options_.prompts.size());
    return load_body(options_.api, options_.model,
                     options_.prompts[static_cast<size_t>((options_.first_serial + serial) % n)], options_.max_tokens);
  }

  void begin(Stream& s) {
    if (!more()) return close(s);
    const int64_t serial = report_.started++;
    s.serial = serial;
    std::vector<std::pair<std::string, std::string>> headers = {{"Content-Type", "application/json"}};
    if (!options_.key.empty()) headers.emplace_back("Authorization", "Bearer " + options_.key);
    s.out = request_text(url_, "POST", load_path(options_.api, options_.model), headers, body(serial));
    s.sent = 0;
    s.pieces = 0;
    s.first = s.last = 0;
    s.reply = {};
    s.whole.clear();
    s.reader.reset();
    s.events = {};
    s.lines = {};
    s.began = s.heard = monotonic_seconds();
    if (options_.rate <= 0) s.arrived = s.began;
    ++active_;
    if (s.fd >= 0) {
      s.state = Stream::State::kSending;
      return write(s);
    }
    s.state = Stream::State::kConnecting;
    s.fd = ::socket(address_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s.fd < 0) return fail(s, std::strerror(errno));
    int on = 1;
    setsockopt(s.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.u64 = static_cast<uint64_t>(&s - streams_.data());
    epoll_ctl(epoll_, EPOLL_CTL_ADD, s.fd, &event);
    if (::connect(s.fd, reinterpret_cast<sockaddr*>(&address_), address_size_) != 0 && errno != EINPROGRESS)
      fail(s, std::strerror(errno));
  }

  void close(Stream& s) {
    if (s.fd >= 0) ::close(s.fd);
    s.fd = -1;
    s.state = Stream::State::kIdle;
  }

  void fail(Stream& s, const std::string& why) {
    const bool connecting = s.state == Stream::State::kConnecting;
    close(s);
    --active_;
    ++report_.failed;
    ++report_.errors[why];
    ended_ = monotonic_seconds();
    LoadRequest& record = report_.all.emplace_back();
    record.serial = s.serial;
    record.start = s.arrived - start_;
    record.error = why;
    if (options_.rate > 0) return next(s);
    // A server that is gone, or refuses everything, is not asked for ever at full speed.
    if (!connecting && report_.failed < 2 * options_.streams + 20) begin(s);
  }

  void handle(Stream& s, uint32_t events) {
    if (s.state == Stream::State::kConnecting && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
      int error = 0;
      socklen_t length = sizeof error;
      getsockopt(s.fd, SOL_SOCKET, SO_ERROR, &error, &length);
      if (error != 0) return fail(s, std::strerror(error));
      connect_.push_back(static_cast<float>(monotonic_seconds() - s.began));
      s.state = Stream::State::kSending;
    }
    if (s.state == Stream::State::kSending) write(s);
    if (s.state == Stream::State::kReading && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read(s);
  }

  void write(Stream& s) {
    while (s.sent < s.out.size()) {
      ssize_t n = ::send(s.fd, s.out.data() + s.sent, s.out.size() - s.sent, MSG_NOSIGNAL);
      if (n > 0) {
        s.sent += static_cast<size_t>(n);
      } else if (errno == EAGAIN) {
        return;
      } else if (errno != EINTR) {
        return fail(s, std::strerror(errno));
      }
    }
    s.written = s.heard = monotonic_seconds();
    s.state = Stream::State::kReading;
  }

  void read(Stream& s) {
    char buffer[65536];
    while (s.state == Stream::State::kReading) {
      ssize_t n = ::recv(s.fd, buffer, sizeof buffer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {
        if (n == 0 && s.reader.finish()) return end(s);
        return fail(s, n == 0 ? "connection closed in the middle" : std::strerror(errno));
      }
      s.heard = monotonic_seconds();
      try {
        s.reader.feed({buffer, static_cast<size_t>(n)}, [&](std::string_view piece) {
          take(s, piece);
          return true;
        });
      } catch (const Error& error) {
        return fail(s, error.what());
      }
      if (!s.answered && s.reader.has_head()) {
        s.answered = true;
        if (++answered_ == options_.streams) report_.answered_seconds = s.heard - start_;
      }
      if (s.reader.done()) return end(s);
    }
  }

  void take(Stream& s, std::string_view piece) {
    if (s.reader.head().status != 200) {
      s.whole += piece.substr(0, kWordsOfFailure - std::min(kWordsOfFailure, s.whole.size()));
      return;
    }
    const auto event = [&](std::string_view data) {
      if (data.empty() || !read_load_event(options_.api, data, s.reply)) return;
      if (s.pieces++ == 0)
        s.first = s.heard;
      else
        itl_.push_back(static_cast<float>(s.heard - s.last));
      s.last = s.heard;
    };
    switch (load_framing(options_.api)) {
      case LoadFraming::kEvents:
        return s.events.feed(piece, event);
      case LoadFraming::kLines:
        return s.lines.feed(piece, event);
      default:
        s.whole += piece;
    }
  }

  void end(Stream& s) {
    if (s.reader.head().status != 200)
      return fail(s, fmt::format("HTTP {}{}{}", s.reader.head().status, s.whole.empty() ? "" : ": ",
                                 s.whole.substr(0, s.whole.find('\n'))));
    if (!s.reply.failure.empty()) return fail(s, s.reply.failure);
    if (s.pieces == 0 && load_framing(options_.api) == LoadFraming::kWhole && !s.whole.empty()) {
      try {
        if (read_load_event(options_.api, s.whole, s.reply)) s.pieces = 1, s.first = s.last = s.heard;
      } catch (const RequestError& error) {
        return fail(s, fmt::format("no JSON: {}", error.what()));
      }
    }
    if (s.pieces == 0) return fail(s, "a reply without text");
    ended_ = monotonic_seconds();
    --active_;
    ++report_.finished;
    LoadRequest record;
    record.serial = s.serial;
    record.start = s.arrived - start_;
    record.tokens = s.reply.tokens > 0 ? s.reply.tokens : s.pieces;
    record.prompt_tokens = s.reply.prompt_tokens;
    record.ttft = s.first - s.written;
    record.e2e = ended_ - s.written;
    record.generation = s.reply.generation_seconds > 0 ? s.reply.generation_seconds : record.e2e;
    record.text = std::move(s.reply.text);
    report_.tokens += record.tokens;
    report_.prompt_tokens += record.prompt_tokens;
    report_.pieces += s.pieces;
    ttft_.push_back(static_cast<float>(record.ttft));
    e2e_.push_back(static_cast<float>(record.e2e));
    if (record.tokens > 1 && s.pieces > 1) {
      record.tpot = (s.last - s.first) / static_cast<double>(record.tokens - 1);
      tpot_.push_back(static_cast<float>(record.tpot));
    }
    report_.all.push_back(std::move(record));
    if (!s.reader.keep_alive()) close(s);
    s.state = Stream::State::kIdle;
    next(s);
  }

  const LoadOptions& options_;
  Url url_;
  sockaddr_storage address_{};
  socklen_t address_size_ = 0;
  int epoll_ = -1;
  std::vector<Stream> streams_;
  std::vector<Stream*> idle_;  // with a rate
  std::mt19937_64 random_{options_.seed};
  double next_arrival_ = 0;
  bool waiting_ = false;
  int64_t active_ = 0, answered_ = 0;
  double start_ = 0, ended_ = 0;
  LoadReport report_;
  std::vector<float> connect_, ttft_, itl_, tpot_, e2e_;
};

}  // namespace

Percentiles percentiles(std::vector<float>& samples) {
  Percentiles p;
  p.count = static_cast<int64_t>(samples.size());
  if (samples.empty()) return p;
  std::sort(samples.begin(), samples.end());
  auto at = [&](double share) {
    auto rank = static_cast<size_t>(std::max(1.0, std::ceil(share * static_cast<double>(samples.size()))));
    return static_cast<double>(samples[rank - 1]);
  };
  double sum = 0;
  for (float s : samples) sum += s;
  p.mean = sum / static_cast<double>(samples.size());
  p.p50 = at(0.5);
  p.p90 = at(0.9);
  p.p99 = at(0.99);
  p.max = samples.back();
  return p;
}

bool LoadTargets::met(const LoadRequest& r) const {
  return r.error.empty() && (ttft <= 0 || r.ttft <= ttft) && (tpot <= 0 || r.tpot <= tpot) &&
         (e2e <= 0 || r.e2e <= e2e);
}

LoadReport run_load(const LoadOptions& options) {
  if (options.streams < 1) throw Error("streams: expected at least 1");
  if (options.requests <= 0 && options.seconds <= 0) throw Error("give a number of requests or a time");
  const Url url = Url::parse(options.url);
  ::close(connect_to(url, 10));  // says at once when nothing listens
  Loop loop(options);
  std::atomic<bool> stop = false;
  std::vector<float> health;
  int64_t failures = 0;
  std::thread probe([&] {
    HttpClient client(url);
    client.silence_seconds = 10;
    while (options.probe_health && !stop) {
      const double began = monotonic_seconds();
      try {
        if (client.get("/health").head.status != 200) ++failures;
      } catch (const Error&) {
        ++failures;
      }
      health.push_back(static_cast<float>(monotonic_seconds() - began));
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  LoadReport report = loop.run();
  stop = true;
  probe.join();
  report.health = percentiles(health);
  report.health_failures = failures;
  return report;
}

}  // namespace sluice

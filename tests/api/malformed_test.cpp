// SPDX-License-Identifier: Apache-2.0
// Requests that nobody should send, to every route of every dialect: no crash, no status that blames the server, and a
// healthy answer right after. SLUICE_MALFORMED sets how many (3000 unless given), SLUICE_MALFORMED_SEED where to begin.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "api/fake_engine.h"
#include "api/server.h"
#include "api/wire.h"
#include "base/file.h"
#include "places.h"

using namespace sluice;
using nlohmann::ordered_json;

namespace {

struct Sample {
  std::string method, path, body, headers;
};

// Every golden request is a seed: each route and each field is among them.
std::vector<Sample> samples() {
  std::vector<Sample> all;
  const std::string folder = test::source_dir().string() + "/tests/api/golden";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().string().find(".request.json") == std::string::npos) continue;
    const auto r = ordered_json::parse(read_file(entry.path()));
    Sample s{r["method"], r["path"], r.contains("body") ? r["body"].dump() : r.value("raw", ""), ""};
    if (r.contains("headers"))
      for (const auto& [name, value] : r["headers"].items())
        if (value.is_string()) s.headers += name + ": " + value.get<std::string>() + "\r\n";
    all.push_back(std::move(s));
  }
  std::sort(all.begin(), all.end(), [](const Sample& a, const Sample& b) { return a.path + a.body < b.path + b.body; });
  return all;
}

struct Draw {
  std::mt19937_64 random;
  size_t below(size_t n) { return static_cast<size_t>(random() % n); }
  char byte() { return static_cast<char>(random()); }
};

constexpr const char* kValues[] = {
    "null", "true",   "-1", "0",      "1e999",       "99999999999999999999", "-0.5", "\"\"", "\"x\"",
    "[]",   "[[[]]]", "{}", "[null]", "\"\\ud800\"", "{\"a\":{\"b\":[1]}}"};

// Puts another value in place of one member, at any depth, or doubles or drops it.
void replace_value(ordered_json& node, Draw& draw, int depth = 0) {
  if ((node.is_object() || node.is_array()) && !node.empty() && depth < 6 && draw.below(4) != 0) {
    auto it = node.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(draw.below(node.size())));
    return replace_value(*it, draw, depth + 1);
  }
  node = ordered_json::parse(kValues[draw.below(std::size(kValues))], nullptr, false);
}

std::string nested(size_t depth, bool object) {
  std::string out;
  for (size_t i = 0; i < depth; ++i) out += object ? "{\"a\":" : "[";
  out += "1";
  for (size_t i = 0; i < depth; ++i) out += object ? "}" : "]";
  return out;
}

std::string spoilt_body(const Sample& sample, Draw& draw) {
  std::string body = sample.body;
  switch (draw.below(8)) {
    case 0:
    case 1:
    case 2: {  // wrong types and values
      auto json = ordered_json::parse(body, nullptr, false);
      if (json.is_discarded() || json.empty()) return "{\"a\":";
      for (size_t i = 0; i <= draw.below(3); ++i) replace_value(json, draw);
      return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    }
    case 3:  // cut off
      return body.substr(0, draw.below(body.size() + 1));
    case 4:  // bytes that are no text
      for (size_t i = 0; i <= draw.below(8) && !body.empty(); ++i) body[draw.below(body.size())] = draw.byte();
      return body;
    case 5:  // deep
      return nested(1 + draw.below(5000), draw.below(2) == 0);
    case 6:  // nothing, or no JSON
      return draw.below(2) == 0 ? "" : std::string(draw.below(200), draw.byte());
    default: {  // one member very long
      auto json = ordered_json::parse(body, nullptr, false);
      if (!json.is_object()) return body + body;
      json[draw.below(2) == 0 ? "inputs" : "prompt"] = std::string(draw.below(20000), 'a');
      return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    }
  }
}

std::string spoilt_request(const std::vector<Sample>& all, Draw& draw) {
  const Sample& sample = all[draw.below(all.size())];
  std::string method = sample.method, path = sample.path, headers = sample.headers, body = sample.body;
  std::string length = "content-length: ";
  switch (draw.below(10)) {
    case 0:  // more headers than are read
      headers += "x-big: " + std::string(1000 + draw.below(90000), 'h') + "\r\n";
      break;
    case 1:  // another path or method
      path = draw.below(2) == 0 ? path + "/" + std::string(draw.below(3000), 'p')
                                : "/%00%ff/../" + std::to_string(draw.below(100));
      break;
    case 2:
      method = std::vector<std::string>{"PUT", "BREW", "DELETE", "OPTIONS", "g", "POST POST"}[draw.below(6)];
      break;
    case 3:  // a length that is none
      length = std::vector<std::string>{"content-length: -1\r\nx: ", "content-length: 99999999999\r\nx: ",
                                        "content-length: a\r\nx: ", "transfer-encoding: chunked\r\nx: "}[draw.below(4)];
      break;
    case 4:
      headers += std::vector<std::string>{"content-encoding: gzip\r\n",
                                          "inference-header-content-length: 7777\r\n",
                                          "inference-header-content-length: x\r\n",
                                          "no colon\r\n",
                                          "accept: \xff\xfe\r\n",
                                          "host: y\r\nhost: z\r\n"}[draw.below(6)];
      break;
    default:
      body = spoilt_body(sample, draw);
  }
  if (headers.find("content-type") == std::string::npos && draw.below(8) != 0)
    headers += "content-type: application/json\r\n";
  return method + " " + path + " HTTP/1.1\r\nhost: x\r\n" + headers + length + std::to_string(body.size()) +
         "\r\nconnection: close\r\n\r\n" + body;
}

long resident_pages() {
  long size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident;
}

}  // namespace

TEST_CASE("malformed requests get the right status and leave a healthy server") {
  const char* wanted = std::getenv("SLUICE_MALFORMED");
  const char* seed = std::getenv("SLUICE_MALFORMED_SEED");
  const long count = wanted != nullptr ? std::atol(wanted) : 3000;
  ServerOptions options;
  options.host = "127.0.0.1";
  options.ports = {0};
  options.transport.head_seconds = 0.5;
  options.transport.body_seconds = 0.5;
  Server server(options);
  FakeEngine engine;
  engine.chat = ChatTemplate::from_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}");
  Service service = engine.service(server.metrics());
  server.ready(service);
  const auto all = samples();
  const uint64_t first = seed != nullptr ? std::strtoull(seed, nullptr, 10) : 1;

  std::atomic<long> answered = 0, closed = 0;
  std::mutex guard;
  std::map<int, long> statuses;
  // Sends `n` requests; clients side by side, as most of the time goes into waiting for the server's deadlines.
  const auto client = [&](uint64_t number, long n) {
    Draw draw{std::mt19937_64(number)};
    std::deque<Wire> slow;  // clients that send a byte now and then, and mostly nothing
    for (long i = 0; i < n; ++i) {
      if (i % 50 == 0) {
        if (slow.size() >= 2) slow.pop_front();
        slow.emplace_back(server.port());
        slow.back().send("POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n");
        if (i % 100 == 0) slow.back().send("content-type: application/json\r\n\r\n{\"inputs\":");
      }
      const std::string text = spoilt_request(all, draw);
      INFO("seed " << number << ", request " << i << ": " << text.substr(0, 600));
      Wire wire(server.port());
      wire.send(text);
      if (draw.below(20) == 0) ::shutdown(wire.descriptor(), SHUT_WR);  // a client that gives up
      const WireReply reply = wire.reply();
      ++(reply.head.empty() ? closed : answered);
      const bool right = reply.head.empty() || (reply.status >= 200 && reply.status < 500) || reply.status == 501;
      CHECK_MESSAGE(right, reply.status << " " << reply.body.substr(0, 300));
      if (!right) return;
      if (i % 20 == 0) {
        const WireReply healthy =
            ask(server.port(), post("/generate", R"({"inputs":"abc","parameters":{"max_new_tokens":2}})"));
        CHECK(healthy.status == 200);
        CHECK(healthy.body == R"({"generated_text":"Hi"})");
        if (healthy.status != 200) return;
      }
      std::lock_guard lock(guard);
      ++statuses[reply.status];
    }
  };
  constexpr uint64_t kClients = 4;
  const auto clients = [&](uint64_t round, long n) {
    std::vector<std::jthread> threads;
    for (uint64_t c = 0; c < kClients; ++c) threads.emplace_back(client, first + 1000 * (round * kClients + c), n);
  };
  clients(0, count / 4 / static_cast<long>(kClients));
  const long before = resident_pages();
  clients(1, count * 3 / 4 / static_cast<long>(kClients));
  const long grown = (resident_pages() - before) * 4;
  std::string counts;
  for (const auto& [status, n] : statuses) counts += " " + std::to_string(status) + ":" + std::to_string(n);
  MESSAGE(count << " malformed requests, " << answered.load() << " answered, " << closed.load() << " closed, by status"
                << counts << "; resident memory grew by " << grown << " KiB in the last three quarters");
  CHECK(answered > count * 9 / 10);
#if !defined(__SANITIZE_ADDRESS__)  // which holds back what is freed
  CHECK(grown < 64 * 1024);
#endif
  for (int tries = 0; tries < 200 && server.connections() > 0; ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(server.connections() == 0);
  CHECK(ask(server.port(), get("/health")).status == 200);
  server.stop(1);
}

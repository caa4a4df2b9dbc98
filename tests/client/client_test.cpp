// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "client/http_client.h"
#include "client/load.h"
#include "client/script.h"
#include "client/sse_reader.h"

using namespace sluice;
using test::Script;

namespace {

const std::string kReply =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    "5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\nTrailer: 1\r\n\r\n";

}  // namespace

TEST_CASE("a reply is the same however its bytes are cut") {
  for (const std::string& text :
       {kReply, std::string("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"),
        std::string("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:11\r\n\r\nhello world")}) {
    for (size_t step = 1; step <= text.size(); ++step) {
      HttpReader reader;
      std::string body;
      for (size_t at = 0; at < text.size(); at += step) {
        std::string_view part = std::string_view(text).substr(at, step);
        REQUIRE(reader.feed(part, [&](std::string_view piece) {
          body += piece;
          return true;
        }) == part.size());
      }
      REQUIRE(reader.done());
      REQUIRE(body == "hello world");
      REQUIRE(reader.head().status == 200);
    }
  }
}

TEST_CASE("what follows a reply is left for the next") {
  HttpReader reader;
  const std::string one = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
  CHECK(reader.feed(one + one, {}) == one.size());
  CHECK(reader.keep_alive());
  reader.reset();
  CHECK(reader.feed("HTTP/1.0 404 Not Found\r\n\r\nrest", {}) == 30);
  CHECK_FALSE(reader.done());
  CHECK(reader.finish());
  CHECK_FALSE(reader.keep_alive());
  reader.reset(true);
  reader.feed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", {});
  CHECK(reader.done());
}

TEST_CASE("what is not HTTP is refused") {
  for (const char* bad :
       {"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n"}) {
    INFO(bad);
    HttpReader reader;
    CHECK_THROWS_AS(reader.feed(bad, {}), Error);
  }
  HttpReader reader;
  CHECK_THROWS_AS(reader.feed(std::string(1 << 20, 'a'), {}), Error);
}

TEST_CASE("events and lines are the same however their bytes are cut") {
  const std::string text =
      ": hello\n\ndata: one\n\ndata:two\ndata: three\r\n\r\nevent: x\nid: 4\ndata\n\ndatax: no\n\ndata: cut";
  for (size_t step = 1; step <= text.size(); ++step) {
    SseReader reader;
    std::vector<std::string> seen;
    for (size_t at = 0; at < text.size(); at += step)
      reader.feed(std::string_view(text).substr(at, step), [&](std::string_view data) { seen.emplace_back(data); });
    REQUIRE(seen == std::vector<std::string>{"one", "two\nthree", ""});
  }
  LineReader lines;
  std::vector<std::string> seen;
  auto keep = [&](std::string_view line) { seen.emplace_back(line); };
  lines.feed("{\"a\":1}\r\n{\"b\"", keep);
  lines.feed(":2}\n\n{}", keep);
  lines.finish(keep);
  CHECK(seen == std::vector<std::string>{"{\"a\":1}", "{\"b\":2}", "", "{}"});
}

TEST_CASE("URLs are read strictly") {
  CHECK(Url::parse("http://n1:10123/").text() == "http://n1:10123");
  CHECK(Url::parse("n1:10123/base/").path == "/base");
  CHECK(Url::parse("http://[::1]:80").host == "::1");
  CHECK(Url::parse("localhost").port == 80);
  for (const char* bad :
       {"https://x", "ftp://x", "http://", "http://x:", "http://x:0", "http://x:70000", "http://x:1y", "[::1"})
    CHECK_THROWS_AS(Url::parse(bad), Error);
}

TEST_CASE("a connection is kept, and made again when the server had closed it") {
  std::atomic<int> asked = 0;
  Script server([&](int connection, const std::string& request) -> std::string {
    ++asked;
    CHECK(request.find("Authorization: Bearer k\r\n") != std::string::npos);
    if (connection == 0 && asked == 3) return "";  // closes without a word
    return kReply;
  });
  HttpClient client(server.url(), "k");
  for (int i = 0; i < 4; ++i) CHECK(client.get("/x").body == "hello world");
  CHECK(asked == 5);
}

TEST_CASE("a body arrives in pieces and can be stopped") {
  Script server([](int, const std::string&) { return kReply; });
  HttpClient client(server.url());
  std::string first;
  client.post_json("/x", "{}", [&](std::string_view piece) {
    first = piece;
    return false;
  });
  CHECK(first == "hello");
  CHECK(client.get("/x").body == "hello world");
}

TEST_CASE("a server that is not there, or breaks off, is named") {
  int port;
  {
    Script gone([](int, const std::string&) { return ""; });
    port = gone.port;
    HttpClient client(gone.url());
    CHECK_THROWS_WITH_AS(client.get("/x"), doctest::Contains("without a reply"), Error);
  }
  HttpClient client(Url::parse("127.0.0.1:" + std::to_string(port)));
  CHECK_THROWS_WITH_AS(client.get("/x"), doctest::Contains(std::to_string(port).c_str()), Error);
  LoadOptions options;
  options.url = "127.0.0.1:" + std::to_string(port);
  CHECK_THROWS_AS(run_load(options), Error);
  Script half(
      [](int, const std::string&) { return "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhalf"; });
  HttpClient other(half.url());
  CHECK_THROWS_WITH_AS(other.get("/x"), doctest::Contains("middle"), Error);
}

TEST_CASE("percentiles are by nearest rank") {
  std::vector<float> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(static_cast<float>(i));
  Percentiles p = percentiles(samples);
  CHECK(p.p50 == 50);
  CHECK(p.p99 == 99);
  CHECK(p.max == 100);
  CHECK(p.mean == doctest::Approx(50.5));
  std::vector<float> one = {3};
  CHECK(percentiles(one).p50 == 3);
}

TEST_CASE("load counts what ended well, what failed and why") {
  const std::string events =
      "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
      "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: "
      "{\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n"
      "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";
  std::atomic<int> served = 0;
  Script server([&](int, const std::string& request) -> std::string {
    if (request.find("/health") != std::string::npos) return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    if (++served == 3) return "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull";
    return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: " + std::to_string(events.size()) +
           "\r\n\r\n" + events;
  });
  LoadOptions options;
  options.url = "127.0.0.1:" + std::to_string(server.port);
  options.streams = 1;
  options.requests = 5;
  options.seconds = 0;
  options.probe_health = false;
  LoadReport report = run_load(options);
  CHECK(report.started == 5);
  CHECK(report.finished == 4);
  CHECK(report.failed == 1);
  CHECK(report.errors["HTTP 429: full"] == 1);
  CHECK(report.tokens == 28);
  CHECK(report.pieces == 8);
  CHECK(report.ttft.count == 4);
  CHECK(report.answered_seconds > 0);
}

TEST_CASE("arrivals come at their rate whatever the server does") {
  const std::string line =
      "{\"response\":\"a\",\"done\":false}\n{\"response\":\"\",\"done\":true,\"eval_count\":5,"
      "\"prompt_eval_count\":3,\"eval_duration\":2000000000,\"prompt_eval_duration\":500000000}\n";
  Script server([&](int, const std::string&) -> std::string {
    return "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + std::to_string(line.size()) + "\r\n\r\n" + line;
  });
  LoadOptions options;
  options.url = "127.0.0.1:" + std::to_string(server.port);
  options.api = LoadApi::kOllama;
  options.model = "m";
  options.streams = 64;
  options.rate = 200;
  options.requests = 60;
  options.seconds = 0;
  options.probe_health = false;
  const LoadReport report = run_load(options);
  CHECK(report.finished == 60);
  CHECK(report.tokens == 300);
  CHECK(report.prompt_tokens == 180);
  REQUIRE(report.all.size() == 60);
  CHECK(report.all[0].generation == doctest::Approx(2.5));
  double last = 0;
  for (const LoadRequest& r : report.all) last = std::max(last, r.start);
  CHECK(last > 0.15);  // 0.3 s in the mean
  CHECK(last < 0.6);
  LoadTargets targets;
  CHECK(targets.met(report.all[0]));
  targets.e2e = 1e-9;
  CHECK_FALSE(targets.met(report.all[0]));
}

TEST_CASE("replies of every dialect are read") {
  const auto read = [](LoadApi api, std::string_view data) {
    LoadReply reply;
    const bool text = read_load_event(api, data, reply);
    return std::tuple(text, reply.tokens, reply.prompt_tokens, reply.generation_seconds, reply.failure);
  };
  CHECK(read(LoadApi::kChat, R"({"choices":[{"delta":{"content":"x"}}]})") == std::tuple(true, 0, 0, 0.0, ""));
  CHECK(read(LoadApi::kChat, R"({"choices":[{"delta":{"content":null}}]})") == std::tuple(false, 0, 0, 0.0, ""));
  CHECK(read(LoadApi::kCompletions, R"({"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":7}})") ==
        std::tuple(false, 7, 4, 0.0, ""));
  CHECK(read(LoadApi::kTgi, R"({"index":3,"token":{"id":1,"text":" a"}})") == std::tuple(true, 3, 0, 0.0, ""));
  CHECK(read(LoadApi::kTriton, R"({"model_name":"e","text_output":"b"})") == std::tuple(true, 1, 0, 0.0, ""));
  CHECK(read(LoadApi::kMaritalk, R"({"output":"oi","queue_time":0,"generation_time":1.5})") ==
        std::tuple(true, 0, 0, 1.5, ""));
  CHECK(read(LoadApi::kEnergon, R"({"text":"oi"})") == std::tuple(true, 0, 0, 0.0, ""));
  CHECK(std::get<4>(read(LoadApi::kTgi, R"({"error":"x"})")) == R"({"error":"x"})");
  CHECK(parse_load_api("triton") == LoadApi::kTriton);
  CHECK_THROWS_AS(parse_load_api("grpc"), Error);
  CHECK(load_path(LoadApi::kTriton, "") == "/v2/models/ensemble/generate_stream");
  CHECK(load_body(LoadApi::kChat, "m", {"a\"b\n", ""}, 5).find(R"("content":"a\"b\n")") != std::string::npos);
  CHECK(synthetic_prompt(3, 2).starts_with("3 "));
}

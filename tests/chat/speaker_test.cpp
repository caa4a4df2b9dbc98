// SPDX-License-Identifier: Apache-2.0
#include "chat/speaker.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "client/script.h"

using namespace sluice;

namespace {

std::string reply(const std::string& body, const char* status = "200 OK") {
  return std::string("HTTP/1.1 ") + status + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
const std::string kModels = reply(R"({"data":[{"id":"a/model"}]})");

struct Asked {
  Said said;
  std::string shown;
};
Asked ask(Speaker& speaker) {
  Asked out;
  List messages;
  const std::atomic<bool> stop{false};
  out.said = speaker.chat(
      messages, {}, [&](std::string_view text) { out.shown += text; }, stop);
  return out;
}
std::unique_ptr<Speaker> speaker_of(const test::Script& server) {
  return remote_speaker([&] { return ServerAddress{server.url(), "secret"}; }, "");
}

}  // namespace

TEST_CASE("a server's answer is shown as it comes and counted as the server counts") {
  std::string asked;
  test::Script server([&](int, const std::string& request) {
    if (request.starts_with("GET /v1/models ")) return kModels;
    asked = request;
    return reply(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\ndata: "
        "{\"choices\":[{\"delta\":{\"content\":\"Par\"}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"content\":\"is\"},\"finish_reason\":\"length\"}]}\n\n"
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n");
  });
  const auto speaker = speaker_of(server);
  CHECK(speaker->name() == "a/model");
  const Asked answer = ask(*speaker);
  CHECK(answer.shown == "Paris");
  CHECK(answer.said.text == "Paris");
  CHECK(answer.said.cut);
  CHECK_FALSE(answer.said.stopped);
  CHECK(answer.said.prompt_tokens == 9);
  CHECK(answer.said.tokens == 4);
  CHECK(asked.starts_with("POST /v1/chat/completions "));
  CHECK(asked.find("Authorization: Bearer secret\r\n") != std::string::npos);
  CHECK(asked.ends_with(R"({"model":"a/model","messages":[],"stream":true,"stream_options":{"include_usage":true}})"));
}

TEST_CASE("a server's refusal is told in its own words, a missing key with what to do") {
  std::string answer;
  test::Script server([&](int, const std::string& request) { return request.starts_with("GET ") ? kModels : answer; });
  const auto speaker = speaker_of(server);
  answer = reply(R"({"error":{"message":"too long"}})", "400 Bad Request");
  CHECK_THROWS_WITH_AS(ask(*speaker), doctest::Contains("the server answers 400: too long"), RequestError);
  answer = reply(R"({"detail":"no"})", "422 Unprocessable Entity");
  CHECK_THROWS_WITH_AS(ask(*speaker), doctest::Contains("422: no"), RequestError);
  answer = reply(
      "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"error\":{\"message\":\"a rank was "
      "lost\"}}\n\n");
  CHECK_THROWS_WITH_AS(ask(*speaker), doctest::Contains("a rank was lost"), RequestError);
  answer = reply(R"({"error":{"message":"wrong key"}})", "401 Unauthorized");
  CHECK_THROWS_WITH_AS(ask(*speaker), doctest::Contains("wrong key; give it with --key-file"), Error);
}

TEST_CASE("a server that has moved is found again, once an answer") {
  test::Script server([&](int, const std::string& request) {
    return request.starts_with("GET ")
               ? kModels
               : reply("data: {\"choices\":[{\"delta\":{\"content\":\"here\"}}]}\n\ndata: [DONE]\n\n");
  });
  int asked = 0;
  const auto speaker = remote_speaker(
      [&] {
        return ServerAddress{Url::parse(asked++ == 0 ? "127.0.0.1:1" : server.url().text()), ""};
      },
      "m");
  CHECK(ask(*speaker).shown == "here");
  CHECK(asked == 2);
  const auto lost = remote_speaker([&] { return ServerAddress{Url::parse("127.0.0.1:1"), ""}; }, "m");
  CHECK_THROWS_AS(ask(*lost), Error);
}

TEST_CASE("a model of this process answers a prompt, stops when told, and without a template holds no conversation") {
  const auto tokenizer = Tokenizer::bytes();
  ExecutorOptions options;
  options.max_seqs = 2;
  options.max_rows = 512;
  options.max_context = 4096;
  Engine engine({}, make_null_executor(options, 258, 'x'), *tokenizer);
  GenerateRequest defaults;
  defaults.max_new_tokens = 7;
  defaults.ignore_eos = true;
  const auto speaker = local_speaker("null", engine, nullptr, defaults);
  CHECK_THROWS_WITH_AS(ask(*speaker), doctest::Contains("null has no chat template"), RequestError);
  std::atomic<bool> stop{false};
  std::string shown;
  const auto show = [&](std::string_view text) { shown += text; };
  Said said = speaker->complete("abc", {}, show, stop);
  CHECK(shown == "xxxxxxx");
  CHECK(said.text == shown);
  CHECK(said.cut);
  CHECK(said.tokens == 7);
  CHECK(said.prompt_tokens >= 3);
  ChatParameters more;
  more.set("max_tokens", "4000");
  said = speaker->complete(
      "abc", more, [&](std::string_view) { stop = true; }, stop);
  CHECK(said.stopped);
  CHECK(said.tokens < 4000);
  stop = false;
  CHECK_THROWS_WITH_AS(speaker->complete(
                           "abc", more, [](std::string_view) { throw Error("nobody reads"); }, stop),
                       "nobody reads", Error);
  for (int i = 0; i < 6000 && engine.stats().running > 0; ++i) ::usleep(5000);
  CHECK(engine.stats().running == 0);
}

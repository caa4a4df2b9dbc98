// SPDX-License-Identifier: Apache-2.0
// Plays tests/api/golden/<dialect>/<case>.request.json through a real server and compares <case>.response.json.
//   request:  {"method", "path", "headers"?: {..}, "body"?: any JSON | "raw"?: text, "engine"?: {"answer"?: ids,
//   "says"?: an answer in channels, "refuse"?, "lose"?}} response: {"status", "headers"?: {..}, "body"?: JSON |
//   "text"?: exact body | "events"?: [JSON or text, one per SSE event] | "lines"?: [JSON, one per line]}
// The string "*" stands for any value.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "api/fake_engine.h"
#include "api/server.h"
#include "api/wire.h"
#include "base/file.h"
#include "places.h"

using namespace sluice;
using nlohmann::ordered_json;

namespace {

const std::string kFolder = test::source_dir().string() + "/tests/api/golden";
constexpr const char* kTemplate =
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt "
    "%}<assistant>{% endif %}";

struct Case {
  std::string name;
  ordered_json request, response;
};

// Bytes, and the tokens of answers in channels.
std::unique_ptr<Tokenizer> speaks_in_channels() {
  ordered_json added = ordered_json::array(), vocabulary;
  for (int i = 0; i < 256; ++i) vocabulary[fmt::format("<0x{:02X}>", i)] = i;
  for (const char* name : {"<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"})
    added.push_back({{"id", 256 + added.size()}, {"content", name}, {"special", true}});
  const ordered_json model = {
      {"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocabulary}, {"merges", ordered_json::array()}};
  return Tokenizer::from_json(ordered_json{{"added_tokens", added}, {"model", model}}.dump(), "", "bytes");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kFolder)) {
    std::string path = entry.path().string();
    const std::string end = ".request.json";
    if (path.size() < end.size() || path.substr(path.size() - end.size()) != end) continue;
    std::string stem = path.substr(0, path.size() - end.size());
    all.push_back({stem.substr(kFolder.size() + 1), ordered_json::parse(read_file(path)),
                   ordered_json::parse(read_file(stem + ".response.json"))});
  }
  std::sort(all.begin(), all.end(), [](const Case& a, const Case& b) { return a.name < b.name; });
  return all;
}

std::string body_of(const ordered_json& request) {
  if (request.contains("raw")) return request["raw"].get<std::string>();
  return request.contains("body") ? request["body"].dump() : "";
}

HttpRequest as_request(const ordered_json& r) {
  HttpRequest http;
  http.method = r["method"];
  http.path = r["path"];
  http.body = body_of(r);
  bool typed = false;
  if (r.contains("headers")) {
    for (const auto& [name, value] : r["headers"].items()) {
      typed = typed || name == "content-type";
      if (!value.is_null()) http.headers.add(name, value.get<std::string>());
    }
  }
  if (!typed && http.method == "POST") http.headers.add("content-type", "application/json");
  return http;
}

// Where the two first differ, or nothing. Member order does not matter, presence does.
std::string difference(const ordered_json& want, const ordered_json& got, const std::string& at) {
  if (want.is_string() && want.get_ref<const std::string&>() == "*") return "";
  if (want.is_object() && got.is_object()) {
    for (const auto& [key, value] : want.items()) {
      if (!got.contains(key)) return at + "/" + key + " is missing";
      std::string inner = difference(value, got[key], at + "/" + key);
      if (!inner.empty()) return inner;
    }
    for (const auto& [key, value] : got.items())
      if (!want.contains(key)) return at + "/" + key + " is not expected";
    return "";
  }
  if (want.is_array() && got.is_array() && want.size() == got.size()) {
    for (size_t i = 0; i < want.size(); ++i) {
      std::string inner = difference(want[i], got[i], at + "/" + std::to_string(i));
      if (!inner.empty()) return inner;
    }
    return "";
  }
  if (want == got) return "";
  return at + ": expected " + want.dump() + ", found " + got.dump();
}

// The first header that is there twice: strict clients refuse the reply.
std::string repeated_header(const std::string& head) {
  std::vector<std::string> names;
  for (size_t at = head.find("\r\n") + 2; at < head.size(); at = head.find("\r\n", at) + 2) {
    std::string name = head.substr(at, std::min(head.find(':', at), head.size()) - at);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (name.empty() || name[0] == '\r') break;
    if (std::find(names.begin(), names.end(), name) != names.end()) return name;
    names.push_back(name);
  }
  return "";
}

ordered_json events_of(const std::string& body) {
  ordered_json events = ordered_json::array();
  for (size_t at = 0; at < body.size();) {
    size_t end = body.find("\n\n", at);
    REQUIRE(end != std::string::npos);
    std::string line = body.substr(at, end - at);
    REQUIRE(line.rfind("data: ", 0) == 0);
    CHECK(line.find('\n') == std::string::npos);
    std::string data = line.substr(6);
    events.push_back(data == "[DONE]" ? ordered_json(data) : ordered_json::parse(data));
    at = end + 2;
  }
  return events;
}

}  // namespace

TEST_CASE("golden exchanges") {
  auto all = cases();
  CHECK(all.size() >= 40);
  for (const Case& c : all) {
    INFO(c.name);
    ServerOptions options;
    options.host = "127.0.0.1";
    options.ports = {0};
    Server server(options);
    FakeEngine engine;
    engine.chat = ChatTemplate::from_text(kTemplate);
    if (c.request.contains("engine")) {
      const auto& script = c.request["engine"];
      if (script.contains("answer")) engine.answer = script["answer"].get<std::vector<int32_t>>();
      if (script.contains("says")) {
        const auto says = script["says"].get<std::string>();
        engine.answer.assign(says.begin(), says.end());
        engine.tokenizer = speaks_in_channels();
      }
      engine.refuse = script.value("refuse", false);
      engine.lose = script.value("lose", false);
    }
    Service service = engine.service(server.metrics());
    server.ready(service);

    const HttpRequest http = as_request(c.request);
    std::string text = http.method + " " + http.path + " HTTP/1.1\r\nhost: x\r\nx-request-id: golden\r\n";
    for (const auto& [name, value] : http.headers.items()) text += name + ": " + value + "\r\n";
    if (http.method == "POST") text += "content-length: " + std::to_string(http.body.size()) + "\r\n";
    WireReply reply = ask(server.port(), text + "\r\n" + http.body);

    CHECK(reply.status == c.response["status"].get<int>());
    CHECK(repeated_header(reply.head) == "");
    if (c.response.contains("headers"))
      for (const auto& [name, value] : c.response["headers"].items()) {
        INFO(name);
        if (value == "*")
          CHECK(reply.header(name) != "");
        else
          CHECK(reply.header(name) == value.get<std::string>());
      }
    if (c.response.contains("text")) CHECK(reply.body == c.response["text"].get<std::string>());
    if (c.response.contains("body")) {
      CHECK(reply.header("content-type") == "application/json");
      CHECK(difference(c.response["body"], ordered_json::parse(reply.body), "") == "");
    }
    if (c.response.contains("events")) {
      CHECK(reply.header("content-type").rfind("text/event-stream", 0) == 0);
      CHECK(difference(c.response["events"], events_of(reply.body), "") == "");
    }
    if (c.response.contains("lines")) {
      CHECK(reply.header("content-type") == "application/x-ndjson");
      ordered_json lines = ordered_json::array();
      for (size_t at = 0, end; at < reply.body.size(); at = end + 1) {
        end = reply.body.find('\n', at);
        REQUIRE(end != std::string::npos);
        lines.push_back(ordered_json::parse(reply.body.substr(at, end - at)));
      }
      CHECK(difference(c.response["lines"], lines, "") == "");
    }
    if (c.request.contains("submitted")) {
      // What the engine must have been asked, as far as the golden names it.
      const auto& want = c.request["submitted"];
      GenerateRequest r = engine.seen();
      const SamplingParams& s = r.sampling;
      ordered_json got = {{"prompt", r.prompt},
                          {"max_new_tokens", r.max_new_tokens},
                          {"greedy", s.greedy},
                          {"temperature", s.temperature},
                          {"top_k", s.top_k},
                          {"top_p", s.top_p},
                          {"min_p", s.min_p},
                          {"typical_p", s.typical_p},
                          {"repetition_penalty", s.repetition_penalty},
                          {"presence_penalty", s.presence_penalty},
                          {"frequency_penalty", s.frequency_penalty},
                          {"seed", r.has_seed ? ordered_json(s.seed) : ordered_json()},
                          {"n", r.n},
                          {"best_of", r.best_of},
                          {"beams", r.beams.width},
                          {"length_penalty", r.beams.length_penalty},
                          {"stop", r.stop},
                          {"stop_ids", r.stop_ids},
                          {"keep_stop_text", r.keep_stop_text},
                          {"ignore_eos", r.ignore_eos},
                          {"min_new_tokens", r.min_new_tokens},
                          {"skip_special", r.skip_special},
                          {"raw_logprobs", s.raw_logprobs},
                          {"n_logprobs", s.n_logprobs}};
      for (const auto& [key, value] : want.items()) {
        INFO(key);
        CHECK(difference(value, got[key], key) == "");
      }
    }
    server.stop(0);
  }
}

TEST_CASE("exactly one route claims each golden request") {
  Router router(dialects());
  for (const Case& c : cases()) {
    if (c.response["status"] == 404 || c.response["status"] == 405) continue;
    INFO(c.name);
    auto claimants = router.claimants(as_request(c.request));
    const bool malformed = c.response["status"].get<int>() >= 400 && c.response["status"].get<int>() != 429;
    if (!malformed || claimants.size() > 1) REQUIRE(claimants.size() == 1);
    if (claimants.size() == 1) CHECK(c.name.rfind(claimants[0].dialect->name + "/", 0) == 0);
  }
}

TEST_CASE("the dialects linked in are the ones there should be") {
  std::vector<std::string> names;
  for (const Dialect& d : dialects()) names.push_back(d.name);
  for (const char* name : {"energon", "fastchat", "maritalk", "ollama", "openai", "tgi", "triton", "vllm_demo"}) {
    INFO(name);
    CHECK(std::find(names.begin(), names.end(), name) != names.end());
  }
  CHECK(std::is_sorted(names.begin(), names.end()));
}

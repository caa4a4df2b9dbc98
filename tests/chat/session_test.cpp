// SPDX-License-Identifier: Apache-2.0
#include "chat/session.h"

#include <csignal>

#include "base/error.h"
#include "chat/standard.h"

using namespace sluice;

namespace {

// Says how many messages it has heard, or fails.
class Counting : public Speaker {
 public:
  const std::string& name() const override { return name_; }
  Said chat(const List& messages, const ChatParameters& parameters, const OnText& on_text,
            const std::atomic<bool>& stop) override {
    heard.push_back(Value(messages).dump_compact());
    fields = Value(parameters.fields()).dump_compact();
    return say("heard " + std::to_string(messages.size()), on_text, stop);
  }
  Said complete(const std::string& prompt, const ChatParameters&, const OnText& on_text,
                const std::atomic<bool>& stop) override {
    return say(prompt + "!", on_text, stop);
  }
  std::vector<std::string> heard;
  std::string fields;
  std::string fails;  // thrown as a RequestError instead of the next answer
  bool interrupt = false;

 private:
  Said say(const std::string& text, const OnText& on_text, const std::atomic<bool>& stop) {
    if (!fails.empty()) throw RequestError(RequestError::Kind::kGeneration, std::exchange(fails, {}));
    if (interrupt) {
      ::kill(::getpid(), SIGINT);
      while (!stop) ::usleep(1000);
    }
    on_text(text);
    Said said;
    said.text = text;
    said.stopped = stop;
    said.prompt_tokens = 5, said.tokens = 3, said.first_seconds = 0.5, said.seconds = 1.5;
    return said;
  }
  const std::string name_ = "counting";
};

struct Ran {
  int code = 0;
  std::string output, errors;
};
Ran run(Counting& speaker, const std::string& input, SessionOptions options = {}) {
  block_signals();
  Standard standard(input);
  Ran out;
  {
    Interrupts interrupts;
    out.code = run_session(speaker, interrupts, options);
  }
  out.output = standard.output(), out.errors = standard.errors();
  return out;
}

}  // namespace

TEST_CASE("in a pipe every line is a message and standard output holds the answers alone") {
  Counting speaker;
  SessionOptions options;
  options.system = "Be brief.";
  options.verbose = true;
  const Ran ran = run(speaker, "one\n\n  \n/etc/hosts is a path\n", options);
  CHECK(ran.code == 0);
  CHECK(ran.output == "heard 2\nheard 4\n");
  CHECK(ran.errors ==
        "5 tokens asked, 3 answered in 1.50 s, the first after 0.50 s, 2.0 tokens/s\n"
        "5 tokens asked, 3 answered in 1.50 s, the first after 0.50 s, 2.0 tokens/s\n");
  REQUIRE(speaker.heard.size() == 2);
  CHECK(speaker.heard[1] ==
        R"([{"role":"system","content":"Be brief."},{"role":"user","content":"one"},)"
        R"({"role":"assistant","content":"heard 2"},{"role":"user","content":"/etc/hosts is a path"}])");
}

TEST_CASE("what stands between three quotes is one message, whatever its lines") {
  Counting speaker;
  run(speaker, "\"\"\"first\n/bye\nthird\"\"\"\n\"\"\"one line\"\"\"\n\"\"\"never\nended\n");
  REQUIRE(speaker.heard.size() == 3);
  CHECK(speaker.heard[0].find(R"("first\n/bye\nthird")") != std::string::npos);
  CHECK(speaker.heard[1].find(R"("one line")") != std::string::npos);
  CHECK(speaker.heard[2].find(R"("never\nended")") != std::string::npos);
}

TEST_CASE("commands change what is heard, by other programs' names too") {
  Counting speaker;
  const Ran ran = run(
      speaker,
      "a\nb\n/undo\n/retry\n/clear\nc\n!!reset\n/system S\nd\n/set parameter num_predict 5\n/set stop x\n/unset stop\n"
      "e\n/set\n/show\n/stats\n/bye\nnot read\n");
  CHECK(ran.code == 0);
  CHECK(ran.output == "heard 1\nheard 3\nheard 1\nheard 1\nheard 2\nheard 4\n");
  CHECK(speaker.fields == R"({"max_tokens":5})");
  for (const char* words :
       {"taken back: b", "max_tokens           5", "model    counting\nsystem   S\n", "6 answers: 30 tokens asked, 18"})
    CHECK_MESSAGE(ran.errors.find(words) != std::string::npos, ran.errors);
}

TEST_CASE("a question that fails leaves no trace but the exit code and a line on standard error") {
  Counting speaker;
  speaker.fails = "too long";
  const Ran ran = run(speaker, "a\nb\n");
  CHECK(ran.code == 1);
  CHECK(ran.output == "heard 1\n");
  CHECK(ran.errors == "sluice: too long\n");
}

TEST_CASE("a command that is none, or lacks what it needs, says so") {
  for (const auto& [line, words] : {std::pair{"/nonsense", "/nonsense is no command; /help lists them"},
                                    {"/save", "/save: expected a file"},
                                    {"/load", "/load: expected a file"},
                                    {"/retry", "nothing was asked yet"},
                                    {"/undo", "nothing was asked yet"},
                                    {"/set top_p", "/set top_p: expected a value"},
                                    {"/set top_p 7", "top_p: expected a number from"}}) {
    Counting speaker;
    const Ran ran = run(speaker, std::string(line) + "\n");
    CHECK(ran.code == 1);
    CHECK_MESSAGE(ran.errors.find(words) != std::string::npos, ran.errors);
  }
}

TEST_CASE("an interrupted answer stays as far as it came, and the next line is read") {
  Counting speaker;
  speaker.interrupt = true;
  block_signals();
  Standard standard("a\n");
  int code = 0;
  {
    Interrupts interrupts;
    code = run_session(speaker, interrupts, {});
  }
  CHECK(standard.output() == "heard 1 [stopped]\n");
  CHECK(code == 0);
}

TEST_CASE("one prompt gives one answer, raw or as a conversation, and 130 where it was interrupted") {
  block_signals();
  Counting speaker;
  SessionOptions options;
  options.system = "s";
  Standard standard("");
  int codes[3];
  {
    Interrupts interrupts;
    codes[0] = run_once(speaker, interrupts, options, "hello", true);
    codes[1] = run_once(speaker, interrupts, options, "hello", false);
    speaker.interrupt = true;
    codes[2] = run_once(speaker, interrupts, options, "hello", true);
  }
  CHECK(standard.output() == "hello!\nheard 2\nhello!\n");
  CHECK(codes[0] == 0);
  CHECK(codes[1] == 0);
  CHECK(codes[2] == 130);
}

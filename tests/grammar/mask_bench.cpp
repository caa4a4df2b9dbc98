// SPDX-License-Identifier: Apache-2.0
// CPU time of masks per token, random draws. Usage: grammar_bench [ANSWERS [VOCABULARY [GRAMMAR]]], the vocabulary in
// tiktoken's form, a line per token that begins with its bytes in base64; without one or for "-", a synthetic one of
// 128k tokens.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>

#include "grammar/automaton.h"
#include "grammar/runtime.h"

using namespace sluice;
using namespace sluice::grammar;

// Of this thread, so that other work on the machine does not count.
double cpu_micros() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

namespace {

constexpr size_t kTokens = 128000;

// All bytes, then words of 1 to 12 letters of which most begin with a space, numbers, punctuation runs, white space.
std::vector<std::string> synthetic(std::mt19937& random) {
  std::set<std::string> texts;
  const std::string letters = "etaoinshrdlucmfwypvbgkjqxz", marks = "{}[]\":,.()<>/\\'-_=+*&#;!?";
  const auto word = [&] {
    std::string out;
    for (size_t n = 1 + random() % 12; out.size() < n;) out += letters[std::min(random() % 26, random() % 26)];
    return out;
  };
  while (texts.size() + 256 < kTokens) {
    const size_t kind = random() % 20;
    std::string text;
    if (kind < 12) text = " " + word();
    if (kind >= 12 && kind < 16) text = word();
    if (kind == 16) text = std::to_string(random() % 1000);
    if (kind == 17)
      for (size_t n = 1 + random() % 4; text.size() < n;) text += marks[random() % marks.size()];
    if (kind == 18) text = "\"" + word() + (random() % 2 == 0 ? "\":" : "\"");
    if (kind == 19) text = "é" + word() + "日";
    if (text.size() > 1) texts.insert(text);
  }
  std::vector<std::string> all;
  for (int i = 0; i < 256; ++i) all.push_back(std::string(1, static_cast<char>(i)));
  all.insert(all.end(), texts.begin(), texts.end());
  all.push_back("");  // the end token
  return all;
}

std::vector<std::string> read_vocabulary(const char* path) {
  std::ifstream in(path);
  std::vector<std::string> texts;
  for (std::string line; std::getline(in, line);) {
    std::string text;
    uint32_t bits = 0, n = 0;
    for (const char c : line) {
      constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
      const size_t digit = kDigits.find(c);
      if (digit == std::string_view::npos) break;
      bits = bits << 6 | static_cast<uint32_t>(digit);
      n += 6;
      if (n >= 8) text += static_cast<char>(bits >> (n -= 8) & 0xFF);
    }
    texts.push_back(text);
  }
  texts.push_back("");  // the end token
  return texts;
}

std::string of_many(const char* begin, const char* each, const char* end, int n) {
  std::string out = begin;
  for (int i = 0; i < n; ++i) {
    std::string item = each;
    item.replace(item.find('#'), 1, std::to_string(i * 7919 % 10007));
    out += (i == 0 ? "" : ",") + item;
  }
  return out + end;
}

double since(double begin) { return cpu_micros() - begin; }

}  // namespace

int main(int argc, char** argv) {
  const int answers = argc > 1 ? std::atoi(argv[1]) : 20;
  std::mt19937 random(1);
  auto begin = cpu_micros();
  const std::vector<std::string> texts =
      argc > 2 && argv[2] != std::string_view("-") ? read_vocabulary(argv[2]) : synthetic(random);
  begin = cpu_micros();
  const auto vocabulary =
      std::make_shared<Vocabulary>(texts, std::vector<int32_t>{static_cast<int32_t>(texts.size()) - 1});
  std::printf("vocabulary of %zu tokens: laid out in %.0f ms\n", vocabulary->size(), since(begin) / 1000);
  const struct {
    const char* name;
    GrammarSpec spec;
  } sources[] = {
      {"any JSON object", {GrammarSpec::Kind::kJsonObject, ""}},
      {"person",
       {GrammarSpec::Kind::kJsonSchema,
        R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},)"
        R"("mail":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string","maxLength":40},)"
        R"("maxItems":20},"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}},)"
        R"("required":["street","city"]}},"required":["name","age","tags","address"],"additionalProperties":false})"}},
      {"long strings",
       {GrammarSpec::Kind::kJsonSchema, R"({"type":"array","items":{"type":"string","maxLength":500},"maxItems":50})"}},
      {"300 names",
       {GrammarSpec::Kind::kJsonSchema, of_many(R"({"type":"object","additionalProperties":false,"properties":{)",
                                                R"("name#":{"type":"integer"})", "}}", 300)}},
      {"enum of 5000",
       {GrammarSpec::Kind::kJsonSchema, of_many(R"({"type":"array","items":{"enum":[)", R"("value #")", "]}}", 5000)}},
      {"tree",
       {GrammarSpec::Kind::kJsonSchema,
        R"({"type":"object","properties":{"value":{"type":"string"},"left":{"$ref":"#"},"right":{"$ref":"#"}},)"
        R"("required":["value"],"additionalProperties":false})"}},
      {"words", {GrammarSpec::Kind::kRegex, "([A-Za-z]+[,;]? ){3,300}"}},
      {"code",
       {GrammarSpec::Kind::kEbnf,
        "root ::= line+\nline ::= name \" = \" sum \"\\n\"\nsum ::= item (\" + \" item)*\nitem ::= name | [0-9]+ | "
        "\"(\" sum \")\"\nname ::= [a-z_]+"}},
      {"regex", {GrammarSpec::Kind::kRegex, "[a-z ]{20,400}\\.( [A-Z][a-z ]{5,200}\\.){0,10}"}},
  };
  std::printf("%-16s %10s %12s %12s %12s %12s\n", "grammar", "compile us", "tokens", "mean us", "p99 us", "first us");
  for (const auto& source : sources) {
    if (argc > 3 && source.name != std::string_view(argv[3])) continue;
    begin = cpu_micros();
    const auto automaton = compile(source.spec, *vocabulary);
    const double compiled = since(begin);
    const auto runtime = std::make_shared<Runtime>(automaton, vocabulary);
    std::vector<double> times;
    for (int answer = 0; answer < answers; ++answer) {
      Matcher matcher(runtime);
      for (int64_t left = 256; left > 0 && !matcher.ended(); --left) {
        begin = cpu_micros();
        const std::span<const uint32_t> mask = matcher.mask(left);
        double spent = since(begin);
        int32_t token = -1;
        const auto start = static_cast<int32_t>(random() % texts.size());
        for (size_t i = 0; i < texts.size() && token < 0; ++i) {
          const size_t id = (static_cast<size_t>(start) + i) % texts.size();
          if ((mask[id / 32] >> (id % 32) & 1) != 0) token = static_cast<int32_t>(id);
        }
        begin = cpu_micros();
        matcher.accept(token);
        times.push_back(spent + since(begin));
      }
    }
    const double first = times[0];
    double sum = 0;
    for (const double t : times) sum += t;
    const size_t n = times.size();
    std::sort(times.begin(), times.end());
    std::printf("%-16s %10.0f %12zu %12.1f %12.1f %12.1f\n", source.name, compiled, n, sum / static_cast<double>(n),
                times[n * 99 / 100], first);
  }
}

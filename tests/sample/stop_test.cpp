// SPDX-License-Identifier: Apache-2.0
#include "sample/stop.h"

#include <doctest/doctest.h>

#include <random>

using namespace sluice;

namespace {
struct Outcome {
  std::string text;
  int matched = -1;
  uint64_t position = 0;
  bool operator==(const Outcome&) const = default;
};

Outcome feed_pieces(const std::vector<std::string>& stops, const std::vector<std::string>& pieces,
                    bool include = false) {
  StopMatcher matcher(stops, include);
  Outcome outcome;
  for (const std::string& piece : pieces) {
    if (matcher.feed(piece, outcome.text)) break;
  }
  matcher.finish(outcome.text);
  outcome.matched = matcher.matched();
  outcome.position = matcher.position();
  return outcome;
}

// The definition, by brute force: the first end, then the longest.
Outcome expected(const std::vector<std::string>& stops, const std::string& text, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Outcome outcome;
    size_t longest = 0;
    for (size_t s = 0; s < stops.size(); ++s) {
      const std::string& stop = stops[s];
      if (stop.empty() || stop.size() > end || stop.size() <= longest) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) != 0) continue;
      longest = stop.size();
      outcome.matched = static_cast<int>(s);
    }
    if (longest == 0) continue;
    outcome.position = end - longest;
    outcome.text = text.substr(0, include ? end : end - longest);
    return outcome;
  }
  return {text, -1, 0};
}
}  // namespace

TEST_CASE("a stop string is found at every split of the text") {
  const std::string text = "one two END three";
  for (const bool include : {false, true}) {
    for (size_t a = 0; a <= text.size(); ++a) {
      for (size_t b = a; b <= text.size(); ++b) {
        const Outcome outcome =
            feed_pieces({"END"}, {text.substr(0, a), text.substr(a, b - a), text.substr(b)}, include);
        CHECK(outcome == Outcome{include ? "one two END" : "one two ", 0, 8});
      }
    }
  }
}

TEST_CASE("only text that could start a stop string is held back") {
  StopMatcher matcher({"</s>", "\n\n"});
  std::string out;
  CHECK_FALSE(matcher.feed("abc<", out));
  CHECK(out == "abc");
  CHECK_FALSE(matcher.feed("/", out));
  CHECK(matcher.held() == 2);
  CHECK_FALSE(matcher.feed("b>\n", out));
  CHECK(out == "abc</b>");
  CHECK_FALSE(matcher.feed("", out));
  CHECK(matcher.feed("\nmore", out));
  CHECK(out == "abc</b>");
  CHECK(matcher.matched() == 1);
  CHECK(matcher.feed("later", out));
  matcher.finish(out);
  CHECK(out == "abc</b>");
}

TEST_CASE("the end of the sequence releases what was held back") {
  StopMatcher matcher({"stop"});
  std::string out;
  CHECK_FALSE(matcher.feed("do not sto", out));
  CHECK(out == "do not ");
  matcher.finish(out);
  CHECK(out == "do not sto");
}

TEST_CASE("random texts and stops give the same result at random splits as a search of the whole") {
  std::mt19937 random(9);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 4000; ++round) {
    std::vector<std::string> stops(static_cast<size_t>(pick(4)));
    for (std::string& stop : stops) {
      for (int n = pick(5); n > 0; --n) stop += static_cast<char>('a' + pick(2));
    }
    std::string text;
    for (int n = pick(16); n > 0; --n) text += static_cast<char>('a' + pick(3));
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = static_cast<size_t>(pick(4));
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    const bool include = pick(2) == 1;
    CHECK(feed_pieces(stops, pieces, include) == expected(stops, text, include));
  }
}

TEST_CASE("text is only ever cut between characters") {
  StopMatcher matcher({"é!"});
  std::string out;
  matcher.feed("caf", out);
  matcher.feed("é", out);
  CHECK(out == "caf");
  matcher.feed("à", out);
  CHECK(out == "caféà");
}

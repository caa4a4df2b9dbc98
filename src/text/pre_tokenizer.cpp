// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace sluice {
namespace {

using Span = Pieces::Span;
using Find = std::function<void(std::string_view, std::vector<Span>&)>;  // matches and the gaps between them

enum class Behavior { kRemoved, kIsolated, kContiguous, kMergedWithPrevious, kMergedWithNext };

Behavior behavior_of(const ComponentJson& json, std::string_view fallback) {
  const std::string name = json.text("behavior", fallback);
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Contiguous") return Behavior::kContiguous;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  json.refuse("split behavior " + name + " is not supported");
}

void find_regex(const Regex& regex, std::string_view text, std::vector<Span>& out) {
  size_t last = 0;
  regex.each(text, [&](size_t begin, size_t end) {
    if (begin > last) out.push_back({last, begin, false});
    out.push_back({begin, end, true});
    last = end;
  });
  if (last < text.size()) out.push_back({last, text.size(), false});
}

Find by_regex(Regex regex) {
  return [shared = std::make_shared<Regex>(std::move(regex))](std::string_view text, std::vector<Span>& out) {
    find_regex(*shared, text, out);
  };
}

// Code points of a property, each a match.
template <class Predicate>
Find by_code(Predicate predicate) {
  return [predicate](std::string_view text, std::vector<Span>& out) {
    size_t last = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (!predicate(next_code(text, at))) continue;
      if (begin > last) out.push_back({last, begin, false});
      out.push_back({begin, at, true});
      last = at;
    }
    if (last < text.size()) out.push_back({last, text.size(), false});
  };
}

// Joins spans as tokenizers' NormalizedString::split does, in place.
void arrange(Behavior behavior, std::vector<Span>& spans) {
  size_t n = 0;
  bool previous = false;
  switch (behavior) {
    case Behavior::kIsolated:
      return;
    case Behavior::kRemoved:
      std::erase_if(spans, [](const Span& s) { return s.match; });
      return;
    case Behavior::kContiguous:
      for (const Span span : spans) {
        if (n > 0 && span.match == previous) {
          spans[n - 1].end = span.end;
        } else {
          spans[n++] = span;
        }
        previous = span.match;
      }
      break;
    case Behavior::kMergedWithPrevious:
      for (const Span span : spans) {
        if (n > 0 && span.match && !previous) {
          spans[n - 1].end = span.end;
        } else {
          spans[n++] = span;
        }
        previous = span.match;
      }
      break;
    case Behavior::kMergedWithNext:
      std::reverse(spans.begin(), spans.end());
      for (const Span span : spans) {
        if (n > 0 && span.match && !previous) {
          spans[n - 1].begin = span.begin;
        } else {
          spans[n++] = span;
        }
        previous = span.match;
      }
      std::reverse(spans.begin(), spans.begin() + static_cast<std::ptrdiff_t>(n));
      break;
  }
  spans.resize(n);
}

void split(Pieces& pieces, const Find& find, Behavior behavior, bool invert) {
  pieces.next.clear();
  for (const Pieces::Piece& piece : pieces.list) {
    pieces.spans.clear();
    find(pieces.view(piece), pieces.spans);
    if (invert) {
      for (Span& span : pieces.spans) span.match = !span.match;
    }
    arrange(behavior, pieces.spans);
    for (const Span& span : pieces.spans) {
      if (span.end > span.begin)
        pieces.next.push_back({piece.begin + span.begin, piece.begin + span.end, piece.at_start && span.begin == 0});
    }
  }
  std::swap(pieces.list, pieces.next);
}

// Each piece anew: write(piece, out) appends what stands in its place.
template <class Write>
void rewrite(Pieces& pieces, Write write) {
  pieces.rewritten.clear();
  for (Pieces::Piece& piece : pieces.list) {
    const size_t begin = pieces.rewritten.size();
    write(pieces.view(piece), piece.at_start, pieces.rewritten);
    piece = {begin, pieces.rewritten.size(), piece.at_start};
  }
  std::swap(pieces.text, pieces.rewritten);
}

// Pieces of `length` code points.
void cut(Pieces& pieces, int64_t length) {
  pieces.next.clear();
  for (const Pieces::Piece& piece : pieces.list) {
    const std::string_view text = pieces.view(piece);
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      for (int64_t n = 0; n < length && end < text.size(); ++n) next_code(text, end);
      pieces.next.push_back({piece.begin + begin, piece.begin + end, piece.at_start && begin == 0});
    }
  }
  std::swap(pieces.list, pieces.next);
}

// The pattern of GPT-2's ByteLevel(use_regex).
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Whitespace's pattern; \w counts the joiners, as Rust's engine does.
constexpr const char* kWords = "[\\w\u200C\u200D]+|[^\\w\\s\u200C\u200D]+";

}  // namespace

PreTokenizer::PreTokenizer(const ComponentJson& json) { add(json); }

void PreTokenizer::add(const ComponentJson& json) {
  const std::string type = json.type();
  const auto split_by = [this](Find find, Behavior behavior, bool invert = false) {
    stages_.push_back([find = std::move(find), behavior, invert](Pieces& p) { split(p, find, behavior, invert); });
  };
  if (type == "Sequence") {
    for (const Value& item : json.list("pretokenizers")) add({item, json.where});
    return;
  }
  maps_bytes_last_ = type == "ByteLevel";
  if (type == "Split") {
    split_by(by_regex(json.pattern("pattern")), behavior_of(json, ""), json.flag("invert", false));
  } else if (type == "ByteLevel") {
    if (json.flag("add_prefix_space", true)) {
      stages_.push_back([](Pieces& pieces) {
        rewrite(pieces, [](std::string_view text, bool, std::string& out) {
          if (!text.starts_with(' ')) out += ' ';
          out += text;
        });
      });
    }
    if (json.flag("use_regex", true)) split_by(by_regex(Regex(kGpt2Pattern)), Behavior::kIsolated);
    stages_.push_back([](Pieces& pieces) {
      rewrite(pieces, [](std::string_view text, bool, std::string& out) { append_byte_level(out, text); });
    });
  } else if (type == "Digits") {
    split_by(by_code(is_numeric), json.flag("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Punctuation") {
    split_by(by_code(is_punctuation), behavior_of(json, "Isolated"));
  } else if (type == "WhitespaceSplit") {
    split_by(by_code(is_space), Behavior::kRemoved);
  } else if (type == "Whitespace") {
    split_by(by_regex(Regex(kWords)), Behavior::kRemoved, true);
  } else if (type == "BertPreTokenizer") {
    split_by(by_code(is_space), Behavior::kRemoved);
    split_by(by_code(is_punctuation), Behavior::kIsolated);
  } else if (type == "CharDelimiterSplit") {
    const std::string delimiter = json.text("delimiter");
    if (count_codes(delimiter) != 1) json.refuse("\"delimiter\" should be one character");
    split_by(by_regex(Regex::literal(delimiter)), Behavior::kRemoved);
  } else if (type == "FixedLength") {
    const int64_t length = json.integer("length", 5);
    if (length < 1) json.refuse(fmt::format("\"length\" should be at least 1, found {}", length));
    stages_.push_back([length](Pieces& pieces) { cut(pieces, length); });
  } else if (type == "Metaspace") {
    const std::string mark = json.text("replacement", "▁");
    if (count_codes(mark) != 1) json.refuse("\"replacement\" should be one character");
    std::string scheme = json.text("prepend_scheme", "always");
    if (!json.flag("add_prefix_space", true)) scheme = "never";
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      json.refuse("Metaspace prepend_scheme " + scheme + " is not supported");
    }
    stages_.push_back([mark, scheme](Pieces& pieces) {
      rewrite(pieces, [&](std::string_view text, bool at_start, std::string& out) {
        const bool marked = text.starts_with(' ') || text.starts_with(mark);
        if (scheme != "never" && (scheme == "always" || at_start) && !marked) out += mark;
        for (const char c : text) c == ' ' ? out += mark : out += c;
      });
    });
    if (json.flag("split", true)) split_by(by_regex(Regex::literal(mark)), Behavior::kMergedWithNext);
  } else {
    json.refuse_type();
  }
}

void PreTokenizer::drop_byte_map() {
  if (!maps_bytes_last_) return;
  stages_.pop_back();
  maps_bytes_last_ = false;
}

void PreTokenizer::apply(Pieces& pieces) const {
  for (const Stage& stage : stages_) stage(pieces);
}

}  // namespace sluice

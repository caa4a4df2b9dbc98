// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <memory>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace sluice {
namespace {

struct Span {
  size_t begin, end;
  bool match;
};
using Find = std::function<void(const std::string&, std::vector<Span>&)>;  // matches and the gaps between them

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

void find_regex(const Regex& regex, const std::string& text, std::vector<Span>& out) {
  size_t last = 0;
  regex.each(text, [&](size_t begin, size_t end) {
    if (begin > last) out.push_back({last, begin, false});
    out.push_back({begin, end, true});
    last = end;
  });
  if (last < text.size()) out.push_back({last, text.size(), false});
}

template <class Predicate>
void find_codes(const std::string& text, Predicate predicate, std::vector<Span>& out) {
  size_t last = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!predicate(next_code(text, at))) continue;
    if (begin > last) out.push_back({last, begin, false});
    out.push_back({begin, at, true});
    last = at;
  }
  if (last < text.size()) out.push_back({last, text.size(), false});
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

void emit(Piece& piece, std::vector<Span>& spans, std::vector<Piece>& out) {
  for (const Span& span : spans) {
    if (span.end > span.begin)
      out.push_back({piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
  }
}

// The pattern of GPT-2's ByteLevel(use_regex).
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const ComponentJson& json) { add(json); }

void PreTokenizer::add(const ComponentJson& json) {
  const std::string type = json.type();
  const auto split = [this](Find find, Behavior behavior, bool invert) {
    stages_.push_back([find = std::move(find), behavior, invert](Piece& piece, std::vector<Piece>& out) {
      std::vector<Span> spans;
      find(piece.text, spans);
      if (invert) {
        for (Span& span : spans) span.match = !span.match;
      }
      arrange(behavior, spans);
      emit(piece, spans, out);
    });
  };
  const auto by_regex = [](Regex regex) -> Find {
    return [shared = std::make_shared<Regex>(std::move(regex))](const std::string& text, std::vector<Span>& out) {
      find_regex(*shared, text, out);
    };
  };
  if (type == "Sequence") {
    for (const Value& item : json.list("pretokenizers")) add({item, json.where});
  } else if (type == "Split") {
    split(by_regex(json.pattern("pattern")), behavior_of(json, ""), json.flag("invert", false));
  } else if (type == "ByteLevel") {
    if (json.flag("add_prefix_space", true)) {
      stages_.push_back([](Piece& piece, std::vector<Piece>& out) {
        if (piece.text[0] != ' ') piece.text.insert(0, 1, ' ');
        out.push_back(std::move(piece));
      });
    }
    if (json.flag("use_regex", true)) split(by_regex(Regex(kGpt2Pattern)), Behavior::kIsolated, false);
    stages_.push_back([](Piece& piece, std::vector<Piece>& out) {
      Piece mapped{{}, piece.at_start};
      append_byte_level(mapped.text, piece.text);
      out.push_back(std::move(mapped));
    });
  } else if (type == "Digits") {
    split([](const std::string& text, std::vector<Span>& out) { find_codes(text, is_numeric, out); },
          json.flag("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous, false);
  } else if (type == "Punctuation") {
    split([](const std::string& text, std::vector<Span>& out) { find_codes(text, is_punctuation, out); },
          behavior_of(json, "Isolated"), false);
  } else if (type == "WhitespaceSplit") {
    split([](const std::string& text, std::vector<Span>& out) { find_codes(text, is_space, out); }, Behavior::kRemoved,
          false);
  } else if (type == "Whitespace") {
    split(by_regex(Regex(R"(\w+|[^\w\s]+)")), Behavior::kRemoved, true);
  } else if (type == "Metaspace") {
    const std::string mark = json.text("replacement", "▁");
    std::string scheme = json.text("prepend_scheme", "always");
    if (!json.flag("add_prefix_space", true)) scheme = "never";
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      json.refuse("Metaspace prepend_scheme " + scheme + " is not supported");
    }
    stages_.push_back([mark, scheme](Piece& piece, std::vector<Piece>& out) {
      std::string text;
      for (const char c : piece.text) c == ' ' ? text += mark : text += c;
      if (scheme != "never" && (scheme == "always" || piece.at_start) && !text.starts_with(mark)) text.insert(0, mark);
      out.push_back({std::move(text), piece.at_start});
    });
    if (json.flag("split", true)) split(by_regex(Regex::literal(mark)), Behavior::kMergedWithNext, false);
  } else {
    json.refuse_type();
  }
}

void PreTokenizer::apply(std::vector<Piece>& pieces) const {
  std::vector<Piece> next;
  for (const Stage& stage : stages_) {
    next.clear();
    for (Piece& piece : pieces) stage(piece, next);
    std::swap(pieces, next);
  }
}

}  // namespace sluice

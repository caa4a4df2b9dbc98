// SPDX-License-Identifier: Apache-2.0
// JSON text to Value and back.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/json_text.h"
#include "text/number_text.h"
#include "text/unicode.h"
#include "text/value.h"

namespace sluice {

std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific).ptr;
  // d.ddde[+-]xx: Python uses the exponent form below 1e-4 and from 1e16 on.
  std::string text(digits, end);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed_end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed).ptr;
  text.assign(digits, fixed_end);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value value = parse(0);
    space();
    if (at_ != text_.size()) fail("text after the value");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 200;

  [[noreturn]] void fail(std::string_view what) const {
    throw RequestError(RequestError::Kind::kMalformed, fmt::format("not JSON: {} at byte {}", what, at_));
  }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  char peek() {
    if (at_ >= text_.size()) fail("unexpected end");
    return text_[at_];
  }
  void expect(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("unexpected character");
    at_ += word.size();
  }

  Value parse(int depth) {
    if (depth > kMaxDepth) fail("too deeply nested value");
    space();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return Value(string());
      case 't':
        expect("true");
        return Value(true);
      case 'f':
        expect("false");
        return Value(false);
      case 'n':
        expect("null");
        return Value(nullptr);
      default:
        return number();
    }
  }

  Value object(int depth) {
    Dict dict;
    ++at_;
    space();
    if (peek() == '}') {
      ++at_;
      return Value(std::move(dict));
    }
    for (;;) {
      space();
      if (peek() != '"') fail("expected a key");
      std::string key = string();
      space();
      expect(":");
      dict.set(std::move(key), parse(depth + 1));
      space();
      if (peek() == '}') break;
      expect(",");
    }
    ++at_;
    return Value(std::move(dict));
  }

  Value array(int depth) {
    List list;
    ++at_;
    space();
    if (peek() == ']') {
      ++at_;
      return Value(std::move(list));
    }
    for (;;) {
      list.push_back(parse(depth + 1));
      space();
      if (peek() == ']') break;
      expect(",");
    }
    ++at_;
    return Value(std::move(list));
  }

  Value number() {
    const size_t begin = at_;
    const auto digits = [&] {
      const size_t from = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      if (at_ == from) fail("expected a value");
    };
    if (peek() == '-') ++at_;
    const size_t first = at_;
    digits();
    if (text_[first] == '0' && at_ - first > 1) fail("number with a leading zero");
    bool whole = true;
    if (at_ < text_.size() && text_[at_] == '.') {
      whole = false;
      ++at_;
      digits();
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      whole = false;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      digits();
    }
    const char* from = text_.data() + begin;
    const char* to = text_.data() + at_;
    int64_t integer = 0;
    if (whole && std::from_chars(from, to, integer).ec == std::errc()) return Value(integer);
    double real = 0;
    if (std::from_chars(from, to, real).ec == std::errc::result_out_of_range) {
      real = std::strtod(std::string(from, to).c_str(), nullptr);  // 0 or infinity
    }
    return Value(real);
  }

  uint32_t hex4() {
    uint32_t code = 0;
    if (at_ + 4 > text_.size()) fail("unexpected end");
    const auto result = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, code, 16);
    if (result.ptr != text_.data() + at_ + 4) fail("expected four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void escape(std::string& out) {
    const char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out += c;
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'u':
        break;
      default:
        fail("unknown escape");
    }
    char32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      const size_t back = at_;
      at_ += 2;
      const uint32_t low = hex4();
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        at_ = back;
      }
    }
    if (code >= 0xD800 && code < 0xE000) code = 0xFFFD;  // half of a pair has no UTF-8
    append_utf8(out, code);
  }

  std::string string() {
    std::string out;
    ++at_;
    for (;;) {
      const size_t begin = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
             static_cast<unsigned char>(text_[at_]) >= 0x20)
        ++at_;
      out.append(text_, begin, at_ - begin);
      const char c = peek();
      if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
      ++at_;
      if (c == '"') break;
      escape(out);
    }
    if (!is_utf8(out)) fail("string that is not UTF-8");
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

void write_string(const std::string& text, std::string& out) {
  out += '"';
  append_json_text(out, text);
  out += '"';
}

}  // namespace

Value Value::parse_json(std::string_view text) { return Parser(text).document(); }

std::string Value::dump_json(int indent) const {
  JsonStyle style;
  style.indent = indent;
  if (indent >= 0) style.item = ",";
  return dump_json(style);
}

std::string Value::dump_compact() const { return dump_json(JsonStyle{-1, ",", ":", false}); }

std::string Value::dump_json(const JsonStyle& style) const {
  std::string out;
  write_json(style, 0, out);
  return out;
}

void Value::write_json(const JsonStyle& style, int depth, std::string& out) const {
  const auto line = [&](int level) {
    if (style.indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(style.indent) * static_cast<size_t>(level), ' ');
  };
  switch (kind()) {
    case Kind::kNull:
      out += "null";
      return;
    case Kind::kBool:
      out += as_bool() ? "true" : "false";
      return;
    case Kind::kInt:
      out += std::to_string(as_int());
      return;
    case Kind::kFloat: {
      const double number = as_float();
      out += std::isnan(number)   ? "NaN"
             : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity")
                                  : python_float(number);
      return;
    }
    case Kind::kString:
      write_string(as_string(), out);
      return;
    case Kind::kList: {
      out += '[';
      bool first = true;
      for (const Value& item : as_list()) {
        if (!first) out += style.item;
        first = false;
        line(depth + 1);
        item.write_json(style, depth + 1, out);
      }
      if (!first) line(depth);
      out += ']';
      return;
    }
    case Kind::kDict: {
      std::vector<const Dict::Entry*> entries;
      for (const Dict::Entry& entry : as_dict().entries()) entries.push_back(&entry);
      if (style.sort_keys) {
        std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
      }
      out += '{';
      bool first = true;
      for (const Dict::Entry* entry : entries) {
        if (!first) out += style.item;
        first = false;
        line(depth + 1);
        write_string(entry->first, out);
        out += style.key;
        entry->second.write_json(style, depth + 1, out);
      }
      if (!first) line(depth);
      out += '}';
      return;
    }
    case Kind::kUndefined:
      throw RequestError(RequestError::Kind::kTemplate,
                         fmt::format("undefined value {} cannot be written as JSON", undefined_name()));
    case Kind::kObject:
      throw RequestError(RequestError::Kind::kTemplate, "a function or namespace cannot be written as JSON");
  }
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "text/template_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice {
namespace {

using Kind = TemplateToken::Kind;

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool starts_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        if (i + 1 < source.size() && source[i + 1] == '\n') continue;
        text_ += '\n';
      } else {
        text_ += source[i];
      }
    }
    if (!text_.empty() && text_.back() == '\n') text_.pop_back();
  }

  std::vector<TemplateToken> run() {
    while (at_ < text_.size()) data();
    push(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const { throw Error(fmt::format("line {}: {}", line_, what)); }
  void push(Kind kind, std::string text, Value value = {}) {
    tokens_.push_back({kind, std::move(text), std::move(value), line_});
  }
  void advance(size_t n) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(at_ + n), '\n'));
    at_ += n;
  }
  bool at(std::string_view word) const { return std::string_view(text_).substr(at_, word.size()) == word; }
  void skip_space() {
    size_t n = 0;
    while (at_ + n < text_.size() && is_ascii_space(text_[at_ + n])) ++n;
    advance(n);
  }

  // Text up to the next tag, then the tag. `sign` after the opening says how the text before it is trimmed.
  void data() {
    size_t tag = at_;
    while ((tag = text_.find('{', tag)) != std::string::npos) {
      const char c = tag + 1 < text_.size() ? text_[tag + 1] : '\0';
      if (c == '{' || c == '%' || c == '#') break;
      ++tag;
    }
    if (tag == std::string::npos) {
      emit_text(std::string_view(text_).substr(at_));
      advance(text_.size() - at_);
      return;
    }
    const char type = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    emit_text(before_tag(std::string_view(text_).substr(at_, tag - at_), sign, type != '{'));
    advance(tag + 2 - at_);
    if (sign == '-' || sign == '+') advance(1);
    line_start_ = false;
    if (type == '#') {
      comment();
    } else if (type == '{') {
      push(Kind::kPrintBegin, "{{");
      code('}');
      push(Kind::kPrintEnd, "}}");
    } else if (!raw()) {
      push(Kind::kBlockBegin, "{%");
      code('%');
      push(Kind::kBlockEnd, "%}");
    }
  }

  std::string_view before_tag(std::string_view text, char sign, bool strips) const {
    if (sign == '-') {
      while (!text.empty() && is_ascii_space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && strips) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      const std::string_view rest = text.substr(line);
      if ((line > 0 || line_start_) && std::all_of(rest.begin(), rest.end(), is_ascii_space))
        text = text.substr(0, line);
    }
    return text;
  }

  void emit_text(std::string_view text) {
    if (!text.empty()) push(Kind::kText, std::string(text));
  }

  // After a tag's closing characters: "-" takes all white space, trim_blocks one newline.
  void after_tag(char sign, bool trims) {
    if (sign == '-') {
      const size_t before = at_;
      skip_space();
      line_start_ = at_ > before && text_[at_ - 1] == '\n';
    } else if (sign != '+' && trims && at_ < text_.size() && text_[at_] == '\n') {
      advance(1);
      line_start_ = true;
    }
  }

  void comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string::npos) fail("missing end of comment tag");
    const char sign = end > at_ ? text_[end - 1] : '\0';
    advance(end + 2 - at_);
    after_tag(sign, true);
  }

  // {% raw %} ... {% endraw %}: text as it stands.
  bool raw() {
    size_t p = at_;
    while (p < text_.size() && is_ascii_space(text_[p])) ++p;
    if (text_.compare(p, 3, "raw") != 0) return false;
    p += 3;
    while (p < text_.size() && is_ascii_space(text_[p])) ++p;
    const bool minus = p < text_.size() && text_[p] == '-';
    if (minus) ++p;
    if (text_.compare(p, 2, "%}") != 0) return false;
    advance(p + 2 - at_);
    if (minus) after_tag('-', false);
    for (size_t tag = at_; (tag = text_.find("{%", tag)) != std::string::npos; tag += 2) {
      p = tag + 2;
      const char sign = p < text_.size() ? text_[p] : '\0';
      if (sign == '-' || sign == '+') ++p;
      while (p < text_.size() && is_ascii_space(text_[p])) ++p;
      if (text_.compare(p, 6, "endraw") != 0) continue;
      p += 6;
      while (p < text_.size() && is_ascii_space(text_[p])) ++p;
      const char last = p < text_.size() && (text_[p] == '-' || text_[p] == '+') ? text_[p++] : '\0';
      if (text_.compare(p, 2, "%}") != 0) continue;
      emit_text(before_tag(std::string_view(text_).substr(at_, tag - at_), sign, true));
      advance(p + 2 - at_);
      after_tag(last, true);
      return true;
    }
    fail("missing end of raw directive");
  }

  // Tokens up to the closing "}}" or "%}".
  void code(char close) {
    std::string open;
    for (;;) {
      skip_space();
      if (at_ >= text_.size()) fail("unexpected end of template inside a tag");
      if (open.empty()) {
        const size_t n = text_[at_] == '-' || (text_[at_] == '+' && close == '%') ? 1 : 0;
        if (at_ + n + 1 < text_.size() && text_[at_ + n] == close && text_[at_ + n + 1] == '}') {
          const char sign = n > 0 ? text_[at_] : '\0';
          advance(n + 2);
          after_tag(sign, close == '%');
          return;
        }
      }
      const char c = text_[at_];
      if (starts_name(c)) {
        name();
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        symbol(open);
      }
    }
  }

  void name() {
    size_t n = 0;
    while (at_ + n < text_.size() && (starts_name(text_[at_ + n]) || is_digit(text_[at_ + n]))) ++n;
    push(Kind::kName, text_.substr(at_, n));
    advance(n);
  }

  void number() {
    std::string digits;
    size_t n = 0;
    const auto take = [&] {
      while (at_ + n < text_.size() &&
             (is_digit(text_[at_ + n]) ||
              (text_[at_ + n] == '_' && at_ + n + 1 < text_.size() && is_digit(text_[at_ + n + 1])))) {
        if (text_[at_ + n] != '_') digits += text_[at_ + n];
        ++n;
      }
    };
    const auto peek = [&](size_t k) { return at_ + n + k < text_.size() ? text_[at_ + n + k] : '\0'; };
    take();
    bool whole = true;
    if (peek(0) == '.' && is_digit(peek(1))) {
      whole = false;
      digits += '.';
      ++n;
      take();
    }
    if ((peek(0) == 'e' || peek(0) == 'E') &&
        (is_digit(peek(1)) || ((peek(1) == '+' || peek(1) == '-') && is_digit(peek(2))))) {
      whole = false;
      digits += 'e';
      ++n;
      if (!is_digit(peek(0))) digits += peek(0), ++n;
      take();
    }
    const char* from = digits.data();
    const char* to = from + digits.size();
    if (whole) {
      int64_t value = 0;
      if (std::from_chars(from, to, value).ec != std::errc()) fail("integers beyond 64 bits are not supported");
      push(Kind::kNumber, digits, Value(value));
    } else {
      push(Kind::kNumber, digits, Value(std::strtod(digits.c_str(), nullptr)));
    }
    advance(n);
  }

  void string() {
    const char quote = text_[at_];
    std::string out;
    size_t p = at_ + 1;
    const auto hex = [&](size_t digits) {
      uint32_t code = 0;
      const char* from = text_.data() + p;
      const char* to = from + std::min(digits, text_.size() - p);
      const auto result = std::from_chars(from, to, code, 16);
      if (result.ptr != from + digits || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        fail("malformed escape in a string");
      append_utf8(out, code);
      p += digits;
    };
    for (;;) {
      if (p >= text_.size()) fail("string without an end");
      const char c = text_[p++];
      if (c == quote) break;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (p >= text_.size()) fail("string without an end");
      const char e = text_[p++];
      switch (e) {
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'v':
          out += '\v';
          break;
        case 'a':
          out += '\a';
          break;
        case '0':
          out += '\0';
          break;
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out += e;
          break;
        case 'x':
          hex(2);
          break;
        case 'u':
          hex(4);
          break;
        case 'U':
          hex(8);
          break;
        default:
          out += '\\';
          out += e;
      }
    }
    push(Kind::kString, std::move(out));
    advance(p - at_);
  }

  void symbol(std::string& open) {
    static constexpr std::string_view kSymbols[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "/",
                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view symbol : kSymbols) {
      if (!at(symbol)) continue;
      const char c = symbol[0];
      if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) fail(fmt::format("unexpected '{}'", c));
        open.pop_back();
      }
      push(Kind::kOperator, std::string(symbol));
      advance(symbol.size());
      return;
    }
    fail(fmt::format("unexpected character '{}'", text_[at_]));
  }

  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // the text that follows begins a line
  std::vector<TemplateToken> tokens_;
};

}  // namespace

std::vector<TemplateToken> lex_template(std::string_view source) { return Lexer(source).run(); }

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "weights/yaml.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {
using Json = nlohmann::ordered_json;
constexpr int kMaxDepth = 32;

struct Line {
  int number = 0;
  size_t indent = 0;
  std::string text;  // without indentation, comment and trailing space
};

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& origin) : origin_(origin) {
    int number = 0;
    while (!text.empty()) {
      const size_t end = text.find('\n');
      std::string_view line = text.substr(0, end);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      ++number;
      const size_t indent = line.find_first_not_of(' ');
      if (indent == std::string_view::npos) continue;
      const std::string_view content = trimmed(without_comment(line.substr(indent)));
      if (content.empty() || (content == "---" && lines_.empty())) continue;
      lines_.push_back({number, indent, std::string(content)});
    }
  }

  Json run() {
    if (lines_.empty()) return Json::object();
    Json out = block(lines_[0].indent, 0);
    if (at_ < lines_.size()) refuse(lines_[at_], "an unexpected indentation");
    return out;
  }

 private:
  [[noreturn]] void refuse(const Line& line, const std::string& what) const {
    throw Error(fmt::format("{}: line {} has {}; expected plain YAML", origin_, line.number, what));
  }

  static std::string_view without_comment(std::string_view line) {
    char quote = '\0';
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (quote != '\0') {
        if (c == '\\' && quote == '"')
          ++i;
        else if (c == quote)
          quote = '\0';
      } else if (c == '#' && (i == 0 || line[i - 1] == ' ')) {
        return line.substr(0, i);
      } else if ((c == '\'' || c == '"') &&
                 (i == 0 || line[i - 1] == ' ' || line[i - 1] == '[' || line[i - 1] == ',')) {
        quote = c;
      }
    }
    return line;
  }

  // Place of the colon that ends a key, or npos.
  static size_t key_end(std::string_view text) {
    size_t i = 0;
    if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
      i = text.find(text[0], 1);
      if (i == std::string_view::npos) return i;
    }
    for (; i < text.size(); ++i) {
      if (text[i] == ':' && (i + 1 == text.size() || text[i + 1] == ' ')) return i;
      if (text[i] == '{' || text[i] == '[') return std::string_view::npos;
    }
    return std::string_view::npos;
  }

  Json block(size_t indent, int depth) {
    if (depth > kMaxDepth) refuse(lines_[at_], "more than 32 levels");
    const std::string& first = lines_[at_].text;
    if (first == "-" || first.starts_with("- ")) return sequence(indent, depth);
    if (key_end(first) != std::string_view::npos) return mapping(indent, depth);
    return scalar_line(lines_[at_++].text, indent, depth);
  }

  Json sequence(size_t indent, int depth) {
    Json out = Json::array();
    while (at_ < lines_.size() && lines_[at_].indent == indent &&
           (lines_[at_].text == "-" || lines_[at_].text.starts_with("- "))) {
      Line& line = lines_[at_];
      if (line.text == "-") {
        ++at_;
        out.push_back(at_ < lines_.size() && lines_[at_].indent > indent ? block(lines_[at_].indent, depth + 1)
                                                                         : Json());
        continue;
      }
      const size_t skip = line.text.find_first_not_of(' ', 1);
      line.text.erase(0, skip);
      line.indent += skip;
      out.push_back(block(line.indent, depth + 1));
    }
    return out;
  }

  Json mapping(size_t indent, int depth) {
    Json out = Json::object();
    while (at_ < lines_.size() && lines_[at_].indent == indent) {
      const Line& line = lines_[at_];
      const size_t colon = key_end(line.text);
      if (colon == std::string_view::npos) refuse(line, "no key");
      const Json key = scalar(line, trimmed(std::string_view(line.text).substr(0, colon)), depth);
      const std::string name = key.is_string() ? key.get<std::string>() : key.dump();
      const std::string value(trimmed(std::string_view(line.text).substr(colon + 1)));
      if (out.contains(name)) refuse(line, fmt::format("the key {} a second time", name));
      ++at_;
      if (!value.empty()) {
        out[name] = scalar_line(value, indent, depth);
        continue;
      }
      const bool list = at_ < lines_.size() && lines_[at_].indent == indent && lines_[at_].text.starts_with("-");
      const bool inner = at_ < lines_.size() && lines_[at_].indent > indent;
      out[name] = list ? sequence(indent, depth + 1) : inner ? block(lines_[at_].indent, depth + 1) : Json();
    }
    return out;
  }

  // A value that may go on in deeper lines.
  Json scalar_line(std::string text, size_t indent, int depth) {
    const Line line = lines_[at_ - 1];
    while (at_ < lines_.size() && lines_[at_].indent > indent) text += " " + lines_[at_++].text;
    return scalar(line, text, depth);
  }

  Json scalar(const Line& line, std::string_view text, int depth) {
    if (text.empty()) return Json();
    if (text[0] == '&' || text[0] == '*' || text[0] == '!' || text[0] == '|' || text[0] == '>' || text[0] == '%')
      refuse(line, fmt::format("'{}', an anchor, tag or block scalar", text[0]));
    if (text[0] == '[' || text[0] == '{' || text[0] == '"' || text[0] == '\'') {
      size_t at = 0;
      Json out = flow(line, text, at, depth);
      if (!trimmed(text.substr(at)).empty()) refuse(line, "text after a value");
      return out;
    }
    return plain(text);
  }

  static Json plain(std::string_view text) {
    if (text == "null" || text == "~" || text == "Null" || text == "NULL") return Json();
    if (text == "true" || text == "True" || text == "TRUE") return true;
    if (text == "false" || text == "False" || text == "FALSE") return false;
    const char* end = text.data() + text.size();
    int64_t whole = 0;
    if (const auto r = std::from_chars(text.data(), end, whole); r.ec == std::errc() && r.ptr == end) return whole;
    double real = 0;
    const bool digits = text.find_first_of("0123456789") != std::string_view::npos;
    if (const auto r = std::from_chars(text.data(), end, real); digits && r.ec == std::errc() && r.ptr == end)
      return real;
    return std::string(text);
  }

  static void skip_space(std::string_view text, size_t& at) {
    while (at < text.size() && text[at] == ' ') ++at;
  }

  Json flow(const Line& line, std::string_view text, size_t& at, int depth) {
    if (depth > kMaxDepth) refuse(line, "more than 32 levels");
    skip_space(text, at);
    if (at == text.size()) refuse(line, "a value that does not end");
    const char open = text[at];
    if (open == '"' || open == '\'') return quoted(line, text, at);
    if (open != '[' && open != '{') {
      const size_t end = std::min(text.find_first_of(",]}", at), text.size());
      const size_t colon = text.find(": ", at);
      const size_t stop = std::min(end, colon);
      Json out = plain(trimmed(text.substr(at, stop - at)));
      at = stop;
      return out;
    }
    const char close = open == '[' ? ']' : '}';
    Json out = open == '[' ? Json::array() : Json::object();
    for (++at;;) {
      skip_space(text, at);
      if (at >= text.size()) refuse(line, "a list or map that does not end");
      if (text[at] == close) break;
      Json item = flow(line, text, at, depth + 1);
      skip_space(text, at);
      if (open == '{') {
        if (at >= text.size() || text[at] != ':') refuse(line, "a map without values");
        ++at;
        const std::string key = item.is_string() ? item.get<std::string>() : item.dump();
        out[key] = flow(line, text, at, depth + 1);
        skip_space(text, at);
      } else {
        out.push_back(std::move(item));
      }
      if (at < text.size() && text[at] == ',')
        ++at;
      else if (at >= text.size() || text[at] != close)
        refuse(line, "a list or map that does not end");
    }
    ++at;
    return out;
  }

  Json quoted(const Line& line, std::string_view text, size_t& at) {
    const char quote = text[at];
    std::string out;
    for (++at; at < text.size(); ++at) {
      if (text[at] == quote) {
        if (quote == '\'' && at + 1 < text.size() && text[at + 1] == '\'') {
          out += text[++at];
          continue;
        }
        ++at;
        return out;
      }
      if (quote == '"' && text[at] == '\\' && at + 1 < text.size()) {
        const char c = text[++at];
        if (c == 'n')
          out += '\n';
        else if (c == 't')
          out += '\t';
        else if (c == '"' || c == '\\' || c == '/')
          out += c;
        else
          refuse(line, fmt::format("the escape \\{}", c));
        continue;
      }
      out += text[at];
    }
    refuse(line, "a text that does not end");
  }

  const std::string& origin_;
  std::vector<Line> lines_;
  size_t at_ = 0;
};
}  // namespace

std::string yaml_to_json(std::string_view text, const std::string& origin) {
  return Parser(text, origin).run().dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sluice

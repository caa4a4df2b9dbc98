// SPDX-License-Identifier: Apache-2.0
// Methods of strings, lists and dicts, and attribute lookup. Methods that change their object are left out, as
// transformers' sandbox forbids them.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "text/python.h"
#include "text/template_builtins.h"
#include "text/unicode.h"

namespace sluice {
namespace {

using python::fail;
using Method = Value (*)(const Value&, const Arguments&);
using Methods = std::map<std::string_view, Method>;

const std::string& text_argument(const Value& value, std::string_view callee) {
  python::require_defined(value);
  if (!value.is_string()) fail(fmt::format("{} expects a string, not {}", callee, python::type_name(value)));
  return value.as_string();
}

int64_t integer_argument(const Value& value, std::string_view callee) {
  python::require_defined(value);
  if (!value.is_int() && !value.is_bool())
    fail(fmt::format("{} expects an integer, not {}", callee, python::type_name(value)));
  return value.as_int();
}

// Removes characters of `chars` (null: white space) from the ends.
Value strip(const std::string& text, const Value& chars, bool left, bool right) {
  const bool spaces = chars.is_null();
  std::u32string set;
  if (!spaces) {
    const std::string& given = text_argument(chars, "strip");
    for (size_t at = 0; at < given.size();) set += next_code(given, at);
  }
  const auto strips = [&](char32_t c) {
    return spaces ? is_space(c) || (c >= 0x1C && c <= 0x1F) : set.find(c) != std::u32string::npos;
  };
  size_t begin = 0, end = text.size();
  if (left) {
    for (size_t at = 0; at < end && strips(next_code(text, at)); begin = at) {
    }
  }
  while (right && end > begin) {
    size_t at = end - 1;
    while (at > begin && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    size_t next = at;
    if (!strips(next_code(text, next))) break;
    end = at;
  }
  return Value(text.substr(begin, end - begin));
}

List split_spaces(const std::string& text, int64_t max) {
  List out;
  size_t at = 0;
  const auto skip = [&] {
    for (size_t next = at; at < text.size() && is_space(next_code(text, next)); at = next) {
    }
  };
  skip();
  while (at < text.size()) {
    if (max >= 0 && static_cast<int64_t>(out.size()) == max) {
      out.emplace_back(text.substr(at));
      break;
    }
    const size_t begin = at;
    for (size_t next = at; at < text.size() && !is_space(next_code(text, next)); at = next) {
    }
    out.emplace_back(text.substr(begin, at - begin));
    skip();
  }
  return out;
}

Value split(const Value& self, const Arguments& a) {
  const std::string& text = self.as_string();
  const Value separator = a.get(0, "sep", Value());
  const int64_t max = integer_argument(a.get(1, "maxsplit", Value(-1)), "split");
  if (separator.is_null()) return Value(split_spaces(text, max));
  const std::string& mark = text_argument(separator, "split");
  if (mark.empty()) fail("empty separator");
  List out;
  size_t begin = 0;
  while (max < 0 || static_cast<int64_t>(out.size()) < max) {
    const size_t end = text.find(mark, begin);
    if (end == std::string::npos) break;
    out.emplace_back(text.substr(begin, end - begin));
    begin = end + mark.size();
  }
  out.emplace_back(text.substr(begin));
  return Value(std::move(out));
}

Value rsplit(const Value& self, const Arguments& a) {
  const std::string& text = self.as_string();
  const int64_t max = integer_argument(a.get(1, "maxsplit", Value(-1)), "rsplit");
  const Value separator = a.get(0, "sep", Value());
  if (max < 0) return split(self, a);
  if (separator.is_null()) fail("rsplit with a limit needs a separator here");
  const std::string& mark = text_argument(separator, "rsplit");
  if (mark.empty()) fail("empty separator");
  List out;
  size_t end = text.size();
  while (static_cast<int64_t>(out.size()) < max && end >= mark.size()) {
    const size_t at = text.rfind(mark, end - mark.size());
    if (at == std::string::npos) break;
    out.emplace_back(text.substr(at + mark.size(), end - at - mark.size()));
    end = at;
  }
  out.emplace_back(text.substr(0, end));
  std::reverse(out.begin(), out.end());
  return Value(std::move(out));
}

Value split_lines(const Value& self, const Arguments& a) {
  const std::string& text = self.as_string();
  const bool keep = python::truthy(a.get(0, "keepends", Value(false)));
  List out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && text[end] != '\n' && text[end] != '\r') ++end;
    size_t next = end;
    if (next < text.size()) next += text[next] == '\r' && next + 1 < text.size() && text[next + 1] == '\n' ? 2 : 1;
    out.emplace_back(text.substr(at, (keep ? next : end) - at));
    at = next;
  }
  return Value(std::move(out));
}

template <class Test>
Value any_affix(const Arguments& a, const char* name, Test test) {
  const Value affix = a.need(0, "prefix", name);
  if (!affix.is_tuple()) return Value(test(text_argument(affix, name)));
  for (const Value& one : affix.as_list()) {
    if (test(text_argument(one, name))) return Value(true);
  }
  return Value(false);
}

Value replace(const Value& self, const Arguments& a) {
  const std::string& text = self.as_string();
  const std::string from = text_argument(a.need(0, "old", "replace"), "replace"),
                    to = text_argument(a.need(1, "new", "replace"), "replace");
  int64_t count = integer_argument(a.get(2, "count", Value(-1)), "replace");
  std::string out;
  size_t at = 0;
  if (from.empty()) {  // before every character and at the end
    for (const std::string& c : python::characters(text)) {
      if (count != 0) out += to, --count;
      out += c;
    }
    if (count != 0) out += to;
    return Value(std::move(out));
  }
  for (size_t found; count != 0 && (found = text.find(from, at)) != std::string::npos; --count) {
    out.append(text, at, found - at);
    out += to;
    at = found + from.size();
    if (out.size() > python::kMaxText) fail("text exceeds the template limit of 64 MiB");
  }
  out.append(text, at);
  return Value(std::move(out));
}

// Upper case at the start of each word, lower case elsewhere; a word is a run of letters.
std::string title(const std::string& text) {
  std::string out;
  bool inside = false;
  for (const std::string& c : python::characters(text)) {
    const bool letter = upper(c) != lower(c);
    out += letter && !inside ? upper(c) : lower(c);
    inside = letter;
  }
  return out;
}

std::string capitalize(const std::string& text) {
  size_t at = 0;
  if (!text.empty()) next_code(text, at);
  return upper(text.substr(0, at)) + lower(text.substr(at));
}

template <class Predicate>
Value every(const Value& self, Predicate predicate) {
  const std::string& text = self.as_string();
  for (size_t at = 0; at < text.size();) {
    if (!predicate(next_code(text, at))) return Value(false);
  }
  return Value(!text.empty());
}

bool cased_letter(char32_t c) { return is_word(c) && !is_numeric(c) && c != '_'; }

Value find(const std::string& text, size_t at) {
  return Value(at == std::string::npos ? int64_t{-1}
                                       : static_cast<int64_t>(count_codes(std::string_view(text).substr(0, at))));
}

// "{} {0} {name}" without format specifications.
Value format(const Value& self, const Arguments& a) {
  const std::string& text = self.as_string();
  std::string out;
  size_t automatic = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] == '{' || text[i] == '}') && i + 1 < text.size() && text[i + 1] == text[i]) {
      out += text[i++];
    } else if (text[i] == '}') {
      fail("single '}' encountered in format string");
    } else if (text[i] == '{') {
      const size_t close = text.find('}', i);
      if (close == std::string::npos) fail("expected '}' before end of string");
      const std::string field = text.substr(i + 1, close - i - 1);
      const Value* value = nullptr;
      if (field.empty() || std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; })) {
        const size_t index = field.empty() ? automatic++ : static_cast<size_t>(std::atoll(field.c_str()));
        if (index < a.positional.size()) value = &a.positional[index];
      } else if (field.find_first_of(":!.[") != std::string::npos) {
        fail(fmt::format("format field '{}' is not supported", field));
      } else {
        value = a.find(a.positional.size(), field);
      }
      if (value == nullptr) fail(fmt::format("format field '{}' has no argument", field));
      out += python::str(*value);
      i = close;
    } else {
      out += text[i];
    }
  }
  return Value(std::move(out));
}

Value join(const Value& self, const Arguments& a) {
  std::string out;
  bool first = true;
  for (const Value& item : python::items(a.need(0, "iterable", "join"))) {
    if (!first) out += self.as_string();
    first = false;
    out += text_argument(item, "join");
    if (out.size() > python::kMaxText) fail("text exceeds the template limit of 64 MiB");
  }
  return Value(std::move(out));
}

Value pad(const Value& self, const Arguments& a, int side) {  // -1: text left, 0: centre, 1: right
  const int64_t width = integer_argument(a.need(0, "width", "justify"), "justify");
  const std::string fill = a.find(1, "fillchar") != nullptr ? text_argument(*a.find(1, "fillchar"), "justify") : " ";
  const int64_t missing = width - python::length(self);
  if (missing <= 0) return self;
  if (static_cast<size_t>(missing) > python::kMaxItems) fail("width exceeds the template limit");
  const int64_t left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.as_string();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return Value(std::move(out));
}

Value partition(const Value& self, const Arguments& a) {
  const std::string &text = self.as_string(), mark = text_argument(a.need(0, "sep", "partition"), "partition");
  if (mark.empty()) fail("empty separator");
  const size_t at = text.find(mark);
  if (at == std::string::npos) return Value(List{self, "", ""}, true);
  return Value(List{text.substr(0, at), mark, text.substr(at + mark.size())}, true);
}

int64_t count_text(const std::string& text, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(count_codes(text)) + 1;
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

const Methods kString = {
    {"strip",
     [](const Value& s, const Arguments& a) { return strip(s.as_string(), a.get(0, "chars", Value()), true, true); }},
    {"lstrip",
     [](const Value& s, const Arguments& a) { return strip(s.as_string(), a.get(0, "chars", Value()), true, false); }},
    {"rstrip",
     [](const Value& s, const Arguments& a) { return strip(s.as_string(), a.get(0, "chars", Value()), false, true); }},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", split_lines},
    {"partition", partition},
    {"startswith",
     [](const Value& s, const Arguments& a) {
       return any_affix(a, "startswith", [&](const std::string& p) { return s.as_string().starts_with(p); });
     }},
    {"endswith",
     [](const Value& s, const Arguments& a) {
       return any_affix(a, "endswith", [&](const std::string& p) { return s.as_string().ends_with(p); });
     }},
    {"removeprefix",
     [](const Value& s, const Arguments& a) {
       const std::string p = text_argument(a.need(0, "prefix", "removeprefix"), "removeprefix");
       return s.as_string().starts_with(p) ? Value(s.as_string().substr(p.size())) : s;
     }},
    {"removesuffix",
     [](const Value& s, const Arguments& a) {
       const std::string p = text_argument(a.need(0, "suffix", "removesuffix"), "removesuffix");
       return s.as_string().ends_with(p) ? Value(s.as_string().substr(0, s.as_string().size() - p.size())) : s;
     }},
    {"upper", [](const Value& s, const Arguments&) { return Value(upper(s.as_string())); }},
    {"lower", [](const Value& s, const Arguments&) { return Value(lower(s.as_string())); }},
    {"title", [](const Value& s, const Arguments&) { return Value(title(s.as_string())); }},
    {"capitalize", [](const Value& s, const Arguments&) { return Value(capitalize(s.as_string())); }},
    {"replace", replace},
    {"format", format},
    {"join", join},
    {"count",
     [](const Value& s, const Arguments& a) {
       return Value(count_text(s.as_string(), text_argument(a.need(0, "sub", "count"), "count")));
     }},
    {"find",
     [](const Value& s, const Arguments& a) {
       return find(s.as_string(), s.as_string().find(text_argument(a.need(0, "sub", "find"), "find")));
     }},
    {"rfind",
     [](const Value& s, const Arguments& a) {
       return find(s.as_string(), s.as_string().rfind(text_argument(a.need(0, "sub", "rfind"), "rfind")));
     }},
    {"index",
     [](const Value& s, const Arguments& a) {
       const size_t at = s.as_string().find(text_argument(a.need(0, "sub", "index"), "index"));
       if (at == std::string::npos) fail("substring not found");
       return find(s.as_string(), at);
     }},
    {"ljust", [](const Value& s, const Arguments& a) { return pad(s, a, -1); }},
    {"center", [](const Value& s, const Arguments& a) { return pad(s, a, 0); }},
    {"rjust", [](const Value& s, const Arguments& a) { return pad(s, a, 1); }},
    {"isdigit", [](const Value& s, const Arguments&) { return every(s, [](char32_t c) { return is_numeric(c); }); }},
    {"isnumeric", [](const Value& s, const Arguments&) { return every(s, [](char32_t c) { return is_numeric(c); }); }},
    {"isalpha", [](const Value& s, const Arguments&) { return every(s, cased_letter); }},
    {"isalnum", [](const Value& s,
                   const Arguments&) { return every(s, [](char32_t c) { return cased_letter(c) || is_numeric(c); }); }},
    {"isspace", [](const Value& s, const Arguments&) { return every(s, is_space); }},
    {"isupper",
     [](const Value& s, const Arguments&) {
       return Value(upper(s.as_string()) == s.as_string() && lower(s.as_string()) != s.as_string());
     }},
    {"islower",
     [](const Value& s, const Arguments&) {
       return Value(lower(s.as_string()) == s.as_string() && upper(s.as_string()) != s.as_string());
     }},
};

const Methods kList = {
    {"index",
     [](const Value& l, const Arguments& a) {
       const Value wanted = a.need(0, "value", "index");
       for (size_t i = 0; i < l.as_list().size(); ++i) {
         if (python::equal(l.as_list()[i], wanted)) return Value(static_cast<int64_t>(i));
       }
       fail(fmt::format("{} is not in list", python::repr(wanted)));
     }},
    {"count",
     [](const Value& l, const Arguments& a) {
       const Value wanted = a.need(0, "value", "count");
       return Value(static_cast<int64_t>(std::count_if(l.as_list().begin(), l.as_list().end(),
                                                       [&](const Value& v) { return python::equal(v, wanted); })));
     }},
    {"copy", [](const Value& l, const Arguments&) { return l; }},
};

const Methods kDict = {
    {"items",
     [](const Value& d, const Arguments&) {
       List out;
       for (const auto& [key, value] : d.as_dict().entries()) out.emplace_back(List{key, value}, true);
       return Value(std::move(out));
     }},
    {"keys", [](const Value& d, const Arguments&) { return Value(python::items(d)); }},
    {"values",
     [](const Value& d, const Arguments&) {
       List out;
       for (const auto& [key, value] : d.as_dict().entries()) out.push_back(value);
       return Value(std::move(out));
     }},
    {"get",
     [](const Value& d, const Arguments& a) {
       const Value key = a.need(0, "key", "get");
       const Value* found = key.is_string() ? d.find(key.as_string()) : nullptr;
       return found != nullptr ? *found : a.get(1, "default", Value());
     }},
    {"copy", [](const Value& d, const Arguments&) { return d; }},
};

// Methods of Python that change their object: an attribute of the object, but never usable.
bool is_forbidden(const Value& value, std::string_view name) {
  static constexpr std::string_view kLists[] = {"append", "extend",  "insert", "pop",
                                                "remove", "reverse", "sort",   "clear"};
  static constexpr std::string_view kDicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
  if (value.is_list()) return std::find(std::begin(kLists), std::end(kLists), name) != std::end(kLists);
  if (value.is_dict()) return std::find(std::begin(kDicts), std::end(kDicts), name) != std::end(kDicts);
  return false;
}

Method method_of(const Value& value, std::string_view name) {
  const Methods* methods = value.is_string() ? &kString : value.is_list() ? &kList : value.is_dict() ? &kDict : nullptr;
  if (methods == nullptr) return nullptr;
  const auto it = methods->find(name);
  return it != methods->end() ? it->second : nullptr;
}

Value missing(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("'{} object' has no attribute '{}'", python::type_name(object), name));
}

std::optional<Value> attribute_of(const Value& object, std::string_view name) {
  if (is_forbidden(object, name)) {
    return Value::undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, python::type_name(object)));
  }
  if (method_of(object, name) != nullptr) {
    return make_function(
        [object, key = std::string(name)](Evaluator&, const Arguments& a) { return call_method(object, key, a); });
  }
  if (object.is_object()) return static_cast<TemplateCallable*>(object.as_object())->attribute(name);
  return std::nullopt;
}

}  // namespace

bool has_method(const Value& value, std::string_view name) { return method_of(value, name) != nullptr; }

Value call_method(const Value& value, std::string_view name, const Arguments& arguments) {
  return method_of(value, name)(value, arguments);
}

Value get_attribute(const Value& object, std::string_view name) {
  python::require_defined(object);
  if (auto attribute = attribute_of(object, name)) return *attribute;
  const Value* item = object.find(name);
  return item != nullptr ? *item : missing(object, name);
}

Value get_item(const Value& object, const Value& key) {
  python::require_defined(object);
  if (object.is_dict() && key.is_string()) {
    if (const Value* item = object.find(key.as_string())) return *item;
  }
  if ((object.is_list() || object.is_string()) && (key.is_int() || key.is_bool())) {
    const List list = object.is_list() ? List{} : python::items(object);
    const List& items = object.is_list() ? object.as_list() : list;
    const int64_t n = static_cast<int64_t>(items.size());
    const int64_t at = key.as_int() < 0 ? key.as_int() + n : key.as_int();
    if (at >= 0 && at < n) return items[static_cast<size_t>(at)];
    return Value::undefined(fmt::format("{} object has no element {}", python::type_name(object), key.as_int()));
  }
  if (key.is_string()) {
    if (auto attribute = attribute_of(object, key.as_string())) return *attribute;
    return missing(object, key.as_string());
  }
  return Value::undefined(fmt::format("{} object has no element {}", python::type_name(object), python::repr(key)));
}

}  // namespace sluice

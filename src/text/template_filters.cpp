// SPDX-License-Identifier: Apache-2.0
// Jinja's filters, with tojson as transformers overrides it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "text/evaluator.h"
#include "text/python.h"
#include "text/template_builtins.h"
#include "text/unicode.h"

namespace sluice {
namespace {

using python::fail;
using Filter = Value (*)(Evaluator&, const Value&, const Arguments&);

Value generator(List items) {
  return Value(std::static_pointer_cast<TemplateObject>(std::make_shared<GeneratorObject>(std::move(items))));
}

// "a.b.0" of an item, each part by key first and attribute second.
Value path(const Value& item, const Value& attribute) {
  if (attribute.is_int()) return get_item(item, attribute);
  Value value = item;
  const std::string name = python::str(attribute);
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, dot - at);
    const bool number =
        !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = get_item(value, number ? Value(static_cast<int64_t>(std::atoll(part.c_str()))) : Value(part));
    at = dot + 1;
  }
  return value;
}

Arguments rest(const Arguments& a, size_t from) {
  Arguments out;
  for (size_t i = from; i < a.positional.size(); ++i) out.positional.push_back(a.positional[i]);
  out.named = a.named;
  return out;
}

std::string name_argument(const Value& value) {
  if (!value.is_string()) fail("expected the name of a filter or test");
  return value.as_string();
}

// select, reject (by the item) and selectattr, rejectattr (by one of its attributes).
Value select(Evaluator& e, const Value& value, const Arguments& a, bool by_attribute, bool keep) {
  const size_t at = by_attribute ? 1 : 0;
  if (a.positional.size() < at) fail("missing parameter for attribute name");
  List out;
  for (const Value& item : python::items(value)) {
    e.step();
    const Value tested = by_attribute ? path(item, a.positional[0]) : item;
    const bool holds = a.positional.size() > at
                           ? apply_test(e, name_argument(a.positional[at]), tested, rest(a, at + 1))
                           : python::truthy(tested);
    if (holds == keep) out.push_back(item);
  }
  return generator(std::move(out));
}

Value map(Evaluator& e, const Value& value, const Arguments& a) {
  List out;
  const Value* attribute = a.positional.empty() ? a.find(0, "attribute") : nullptr;
  if (a.positional.empty() && attribute == nullptr) fail("map requires a filter argument");
  for (const Value& item : python::items(value)) {
    e.step();
    if (attribute != nullptr) {
      const Value found = path(item, *attribute);
      const Value* fallback = a.find(1, "default");
      out.push_back(found.is_undefined() && fallback != nullptr ? *fallback : found);
    } else {
      out.push_back(apply_filter(e, name_argument(a.positional[0]), item, rest(a, 1)));
    }
  }
  return generator(std::move(out));
}

// What sort, unique, min and max compare: the item or its attribute, text in lower case.
Value sort_key(const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = attribute != nullptr && !attribute->is_null() ? path(item, *attribute) : item;
  return key.is_string() && !case_sensitive ? Value(lower(key.as_string())) : key;
}

List sorted(const List& items, const Value* attribute, bool case_sensitive, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) keyed.emplace_back(sort_key(item, attribute, case_sensitive), item);
  // Errors of comparing leave std::stable_sort by exception, which it allows.
  std::stable_sort(keyed.begin(), keyed.end(), [reverse](const auto& a, const auto& b) {
    return reverse ? python::less(b.first, a.first) : python::less(a.first, b.first);
  });
  List out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return out;
}

Value sort(Evaluator&, const Value& value, const Arguments& a) {
  return Value(sorted(python::items(value), a.find(2, "attribute"), python::truthy(a.get(1, "case_sensitive", false)),
                      python::truthy(a.get(0, "reverse", false))));
}

Value unique(Evaluator& e, const Value& value, const Arguments& a) {
  List out, seen;
  for (const Value& item : python::items(value)) {
    const Value key = sort_key(item, a.find(1, "attribute"), python::truthy(a.get(0, "case_sensitive", false)));
    bool known = false;
    for (const Value& s : seen) {
      e.step();
      known = known || python::equal(s, key);
    }
    if (known) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return generator(std::move(out));
}

Value extreme(const Value& value, const Arguments& a, bool largest) {
  const List items = python::items(value);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Value* attribute = a.find(1, "attribute");
  const bool exact = python::truthy(a.get(0, "case_sensitive", false));
  const Value* best = &items[0];
  for (const Value& item : items) {
    const Value x = sort_key(item, attribute, exact), y = sort_key(*best, attribute, exact);
    if (largest ? python::less(y, x) : python::less(x, y)) best = &item;
  }
  return *best;
}

Value group_by(Evaluator&, const Value& value, const Arguments& a) {
  const Value attribute = a.need(0, "attribute", "groupby");
  List out, group;
  Value key;
  for (const Value& item : sorted(python::items(value), &attribute, false, false)) {
    const Value next = path(item, attribute);
    if (!group.empty() && !python::equal(key, next)) out.emplace_back(List{key, Value(std::exchange(group, {}))}, true);
    key = next;
    group.push_back(item);
  }
  if (!group.empty()) out.emplace_back(List{key, Value(std::move(group))}, true);
  return Value(std::move(out));
}

Value join(Evaluator&, const Value& value, const Arguments& a) {
  const std::string mark = python::str(a.get(0, "d", ""));
  const Value* attribute = a.find(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : python::items(value)) {
    if (!first) out += mark;
    first = false;
    out += python::str(attribute != nullptr ? path(item, *attribute) : item);
    if (out.size() > python::kMaxText) fail("text exceeds the template limit of 64 MiB");
  }
  return Value(std::move(out));
}

Value to_json(Evaluator&, const Value& value, const Arguments& a) {
  JsonStyle style;
  const Value indent = a.get(1, "indent", Value());
  if (!indent.is_null()) {
    if (!indent.is_int() || indent.as_int() < 0 || indent.as_int() > 64)
      fail("tojson: indent should be an integer from 0 to 64");
    style.indent = static_cast<int>(indent.as_int());
    style.item = std::string(",");
  }
  const Value separators = a.get(2, "separators", Value());
  if (!separators.is_null()) {
    if (!separators.is_list() || separators.as_list().size() != 2)
      fail("tojson: separators should be a pair of strings");
    style.item = python::str(separators.as_list()[0]);
    style.key = python::str(separators.as_list()[1]);
  }
  style.sort_keys = python::truthy(a.get(3, "sort_keys", false));
  return Value(value.dump_json(style));
}

Value indent(Evaluator&, const Value& value, const Arguments& a) {
  const Value width = a.get(0, "width", Value(4));
  if (!width.is_string() && (!width.is_int() || width.as_int() > 1000))
    fail("indent: width should be a string or a small integer");
  const std::string pad = width.is_string()
                              ? width.as_string()
                              : std::string(static_cast<size_t>(std::max<int64_t>(0, width.as_int())), ' ');
  const bool first = python::truthy(a.get(1, "first", false)), blank = python::truthy(a.get(2, "blank", false));
  const std::string text = python::str(value);
  std::string out;
  if (first) out += pad;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (at > 0) {
      out += '\n';
      if (blank || end > at) out += pad;
    }
    out.append(text, at, end - at);
    at = end + 1;
    if (out.size() > python::kMaxText) fail("text exceeds the template limit of 64 MiB");
  }
  return Value(std::move(out));
}

Value to_int(Evaluator&, const Value& value, const Arguments& a) {
  Value fallback = a.get(0, "default", Value(0));
  if (value.is_int() || value.is_bool()) return Value(value.as_int());
  double number = 0;
  if (value.is_float()) {
    number = value.as_float();
  } else if (value.is_string()) {
    const std::string text = call_method(value, "strip", {}).as_string();
    const int64_t base = a.get(1, "base", Value(10)).is_int() ? a.get(1, "base", Value(10)).as_int() : 10;
    if (base < 2 || base > 36) fail("int: base should be 2 to 36");
    char* end = nullptr;
    errno = 0;
    const long long whole = std::strtoll(text.c_str(), &end, static_cast<int>(base));
    if (!text.empty() && *end == '\0' && errno == 0) return Value(static_cast<int64_t>(whole));
    number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') return fallback;
  } else {
    return fallback;
  }
  return std::abs(number) < 9.2e18 ? Value(static_cast<int64_t>(number)) : fallback;
}

Value to_float(Evaluator&, const Value& value, const Arguments& a) {
  if (value.is_number()) return Value(value.as_float());
  if (value.is_string()) {
    const std::string text = call_method(value, "strip", {}).as_string();
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (!text.empty() && *end == '\0') return Value(number);
  }
  return a.get(0, "default", Value(0.0));
}

Value round(Evaluator&, const Value& value, const Arguments& a) {
  const int64_t digits = a.get(0, "precision", Value(0)).is_int() ? a.get(0, "precision", Value(0)).as_int() : 0;
  const std::string method = python::str(a.get(1, "method", "common"));
  if (!value.is_number()) fail(fmt::format("round: a number is required, not {}", python::type_name(value)));
  if (method == "common" && !value.is_float() && digits >= 0) return Value(value.as_int());
  if (digits < -18 || digits > 300) fail("round: precision is out of range");
  const double scale = std::pow(10.0, static_cast<double>(digits)), x = value.as_float();
  if (method == "ceil") return Value(std::ceil(x * scale) / scale);
  if (method == "floor") return Value(std::floor(x * scale) / scale);
  if (method != "common") fail("round: method should be common, ceil or floor");
  if (digits < 0) return Value(std::nearbyint(x * scale) / scale);
  return Value(std::strtod(fmt::format("{:.{}f}", x, digits).c_str(), nullptr));
}

// Upper case after white space, - ( { [ <, lower case elsewhere.
Value title(Evaluator&, const Value& value, const Arguments&) {
  std::string out;
  bool start = true;
  for (const std::string& c : python::characters(python::str(value))) {
    out += start ? upper(c) : lower(c);
    size_t at = 0;
    start =
        is_space(next_code(c, at)) || (c.size() == 1 && std::string_view("-({[<").find(c[0]) != std::string_view::npos);
  }
  return Value(std::move(out));
}

Value escape(Evaluator&, const Value& value, const Arguments&) {
  std::string out;
  for (const char c : python::str(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return Value(std::move(out));
}

Value batch(Evaluator&, const Value& value, const Arguments& a) {
  const Value size = a.need(0, "linecount", "batch");
  if (!size.is_int() || size.as_int() < 1) fail("batch: size should be a positive integer");
  List out, line;
  for (const Value& item : python::items(value)) {
    line.push_back(item);
    if (static_cast<int64_t>(line.size()) == size.as_int()) out.emplace_back(std::exchange(line, {}));
  }
  const Value* fill = a.find(1, "fill_with");
  if (!line.empty()) {
    if (size.as_int() > static_cast<int64_t>(python::kMaxItems)) fail("batch: size exceeds the template limit");
    while (fill != nullptr && static_cast<int64_t>(line.size()) < size.as_int()) line.push_back(*fill);
    out.emplace_back(std::move(line));
  }
  return generator(std::move(out));
}

Value slice(Evaluator&, const Value& value, const Arguments& a) {
  const Value count = a.need(0, "slices", "slice");
  if (!count.is_int() || count.as_int() < 1 || count.as_int() > static_cast<int64_t>(python::kMaxItems))
    fail("slice: the count should be a positive integer");
  const List items = python::items(value);
  const size_t n = static_cast<size_t>(count.as_int()), whole = items.size() / n, extra = items.size() % n;
  const Value fill = a.get(1, "fill_with", Value());
  List out;
  for (size_t i = 0, at = 0; i < n; ++i) {
    const size_t end = at + whole + (i < extra ? 1 : 0);
    List part(items.begin() + static_cast<std::ptrdiff_t>(at), items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!fill.is_null() && i >= extra) part.push_back(fill);
    out.emplace_back(std::move(part));
    at = end;
  }
  return generator(std::move(out));
}

// Text longer than length and leeway is cut, at a space unless killwords is set.
Value truncate(Evaluator&, const Value& value, const Arguments& a) {
  const Value size = a.get(0, "length", Value(255)), slack = a.get(3, "leeway", Value());
  const std::string end = python::str(a.get(2, "end", Value("...")));
  const std::vector<std::string> letters = python::characters(python::str(value));
  const int64_t length = size.is_int() ? size.as_int() : -1, leeway = slack.is_int() ? slack.as_int() : 5;
  const int64_t kept = length - static_cast<int64_t>(count_codes(end));
  if (kept < 0 || leeway < 0)
    fail(fmt::format("truncate: length and leeway should be numbers that leave room for {}", end));
  if (static_cast<int64_t>(letters.size()) <= length + leeway) return Value(python::str(value));
  std::string out;
  for (int64_t i = 0; i < kept; ++i) out += letters[static_cast<size_t>(i)];
  if (!python::truthy(a.get(1, "killwords", Value(false)))) out = out.substr(0, out.rfind(' '));
  return Value(out + end);
}

Value dict_sort(Evaluator&, const Value& value, const Arguments& a) {
  if (!value.is_dict()) fail("dictsort expects a dict");
  const Value place(python::str(a.get(1, "by", "key")) == "value" ? 1 : 0);
  return Value(sorted(call_method(value, "items", {}).as_list(), &place,
                      python::truthy(a.get(0, "case_sensitive", false)), python::truthy(a.get(2, "reverse", false))));
}

Value reverse(Evaluator&, const Value& value, const Arguments&) {
  List items = python::items(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return generator(std::move(items));
  std::string out;
  for (const Value& c : items) out += c.as_string();
  return Value(std::move(out));
}

Value text_method(const Value& value, std::string_view name, const Arguments& a) {
  return call_method(Value(python::str(value)), name, a);
}

Value default_of(Evaluator&, const Value& value, const Arguments& a) {
  const bool replace = value.is_undefined() || (python::truthy(a.get(1, "boolean", false)) && !python::truthy(value));
  return replace ? a.get(0, "default_value", "") : value;
}

// Runs of letters, digits and underscores.
Value word_count(Evaluator&, const Value& value, const Arguments&) {
  int64_t n = 0;
  bool inside = false;
  const std::string text = python::str(value);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code(text, at);
    const bool word = c == '_' || is_numeric(c) || (is_word(c) && !is_mark(c) && !is_punctuation(c));
    n += word && !inside;
    inside = word;
  }
  return Value(n);
}

Value length(Evaluator&, const Value& value, const Arguments&) { return Value(python::length(value)); }

const std::map<std::string_view, Filter> kFilters = {
    {"default", default_of},
    {"d", default_of},
    {"length", length},
    {"count", length},
    {"tojson", to_json},
    {"trim", [](Evaluator&, const Value& v, const Arguments& a) { return text_method(v, "strip", a); }},
    {"upper", [](Evaluator&, const Value& v, const Arguments&) { return Value(upper(python::str(v))); }},
    {"lower", [](Evaluator&, const Value& v, const Arguments&) { return Value(lower(python::str(v))); }},
    {"capitalize", [](Evaluator&, const Value& v, const Arguments&) { return text_method(v, "capitalize", {}); }},
    {"title", title},
    {"replace", [](Evaluator&, const Value& v, const Arguments& a) { return text_method(v, "replace", a); }},
    {"center", [](Evaluator&, const Value& v, const Arguments& a) { return text_method(v, "center", a); }},
    {"string", [](Evaluator&, const Value& v, const Arguments&) { return Value(python::str(v)); }},
    {"safe", [](Evaluator&, const Value& v, const Arguments&) { return Value(python::str(v)); }},
    {"escape", escape},
    {"e", escape},
    {"format",
     [](Evaluator&, const Value& v, const Arguments& a) {
       return Value(python::format_percent(python::str(v), Value(a.positional, true)));
     }},
    {"indent", indent},
    {"wordcount", word_count},
    {"int", to_int},
    {"float", to_float},
    {"round", round},
    {"abs",
     [](Evaluator&, const Value& v, const Arguments&) { return python::less(v, Value(0)) ? python::negate(v) : v; }},
    {"list", [](Evaluator&, const Value& v, const Arguments&) { return Value(python::items(v)); }},
    {"items",
     [](Evaluator&, const Value& v, const Arguments&) {
       if (v.is_undefined()) return generator({});
       if (!v.is_dict()) fail("Can only get item pairs from a mapping.");
       return generator(call_method(v, "items", {}).as_list());
     }},
    {"dictsort", dict_sort},
    {"first",
     [](Evaluator&, const Value& v, const Arguments&) {
       const List items = python::items(v);
       return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
     }},
    {"last",
     [](Evaluator&, const Value& v, const Arguments&) {
       const List items = python::items(v);
       return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
     }},
    {"join", join},
    {"map", map},
    {"select", [](Evaluator& e, const Value& v, const Arguments& a) { return select(e, v, a, false, true); }},
    {"reject", [](Evaluator& e, const Value& v, const Arguments& a) { return select(e, v, a, false, false); }},
    {"selectattr", [](Evaluator& e, const Value& v, const Arguments& a) { return select(e, v, a, true, true); }},
    {"rejectattr", [](Evaluator& e, const Value& v, const Arguments& a) { return select(e, v, a, true, false); }},
    {"sort", sort},
    {"reverse", reverse},
    {"unique", unique},
    {"min", [](Evaluator&, const Value& v, const Arguments& a) { return extreme(v, a, false); }},
    {"max", [](Evaluator&, const Value& v, const Arguments& a) { return extreme(v, a, true); }},
    {"sum",
     [](Evaluator&, const Value& v, const Arguments& a) {
       Value total = a.get(1, "start", Value(0));
       const Value* attribute = a.find(0, "attribute");
       for (const Value& item : python::items(v)) {
         total =
             python::binary("+", total, attribute != nullptr && !attribute->is_null() ? path(item, *attribute) : item);
       }
       return total;
     }},
    {"batch", batch},
    {"slice", slice},
    {"truncate", truncate},
    {"forceescape", escape},
    {"groupby", group_by},
    {"attr",  // the attribute alone, never a key
     [](Evaluator&, const Value& v, const Arguments& a) {
       const Value name = a.need(0, "name", "attr");
       return v.is_object() || has_method(v, python::str(name))
                  ? get_attribute(v, python::str(name))
                  : Value::undefined(fmt::format("no attribute '{}'", python::str(name)));
     }},
};

}  // namespace

bool is_template_filter(std::string_view name) { return kFilters.contains(name); }

Value apply_filter(Evaluator& evaluator, std::string_view name, const Value& value, const Arguments& arguments) {
  const auto it = kFilters.find(name);
  if (it == kFilters.end()) fail(fmt::format("No filter named '{}'.", name));
  return it->second(evaluator, value, arguments);
}

}  // namespace sluice

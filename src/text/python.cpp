// SPDX-License-Identifier: Apache-2.0
#include "text/python.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/number_text.h"
#include "text/template_object.h"
#include "text/unicode.h"

namespace sluice::python {

void fail(const std::string& message) { throw RequestError(RequestError::Kind::kTemplate, message); }

void require_defined(const Value& value) {
  if (value.is_undefined()) fail(value.undefined_name());
}

namespace {
TemplateCallable* callable(const Value& value) { return static_cast<TemplateCallable*>(value.as_object()); }

bool printable(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return code == ' ';
    default:
      return true;
  }
}

std::string repr_string(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_code(text, at);
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (printable(code)) {
      out.append(text, begin, at - begin);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(code));
    } else if (code < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(code));
    }
  }
  out += quote;
  return out;
}

void repr_to(const Value& value, std::string& out, int depth) {
  if (depth > 200) fail("value is nested too deeply to print");
  if (out.size() > kMaxText) fail("text exceeds the template limit of 64 MiB");
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      out += "Undefined";
      return;
    case Value::Kind::kNull:
      out += "None";
      return;
    case Value::Kind::kBool:
      out += value.as_bool() ? "True" : "False";
      return;
    case Value::Kind::kInt:
      out += std::to_string(value.as_int());
      return;
    case Value::Kind::kFloat:
      out += python_float(value.as_float());
      return;
    case Value::Kind::kString:
      out += repr_string(value.as_string());
      return;
    case Value::Kind::kList: {
      const List& list = value.as_list();
      out += value.is_tuple() ? '(' : '[';
      for (size_t i = 0; i < list.size(); ++i) {
        if (i > 0) out += ", ";
        repr_to(list[i], out, depth + 1);
      }
      if (value.is_tuple() && list.size() == 1) out += ',';
      out += value.is_tuple() ? ')' : ']';
      return;
    }
    case Value::Kind::kDict: {
      out += '{';
      bool first = true;
      for (const auto& [key, item] : value.as_dict().entries()) {
        if (!first) out += ", ";
        first = false;
        out += repr_string(key);
        out += ": ";
        repr_to(item, out, depth + 1);
      }
      out += '}';
      return;
    }
    case Value::Kind::kObject:
      out += callable(value)->text();
      return;
  }
}

bool both_int(const Value& a, const Value& b) { return !a.is_float() && !b.is_float(); }

[[noreturn]] void overflow() { fail("integers beyond 64 bits are not supported"); }

Value repeat(const Value& value, int64_t n) {
  const size_t times = n > 0 ? static_cast<size_t>(n) : 0;
  if (value.is_string()) {
    const std::string& text = value.as_string();
    if (!text.empty() && times > kMaxText / text.size()) fail("text exceeds the template limit of 64 MiB");
    std::string out;
    for (size_t i = 0; i < times && !text.empty(); ++i) out += text;
    return Value(std::move(out));
  }
  const List& list = value.as_list();
  if (!list.empty() && times > kMaxItems / list.size()) fail("list exceeds the template limit of 1048576 items");
  List out;
  for (size_t i = 0; i < times && !list.empty(); ++i) out.insert(out.end(), list.begin(), list.end());
  return Value(std::move(out), value.is_tuple());
}

Value integer_op(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &out)) overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &out)) overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &out)) overflow();
  } else if (op == "**") {
    out = 1;
    for (int64_t i = 0; i < b; ++i) {
      if (__builtin_mul_overflow(out, a, &out)) overflow();
      if (out == 0 || (a == 1)) break;
      if (a == -1) return Value(static_cast<int64_t>(b % 2 == 0 ? 1 : -1));
    }
  } else {
    if (b == 0) fail("integer division or modulo by zero");
    if (a == INT64_MIN && b == -1) overflow();
    const int64_t quotient = a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
    out = op == "//" ? quotient : a - quotient * b;
  }
  return Value(out);
}

Value float_op(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) fail("division by zero");
  if (op == "/") return Value(a / b);
  const double floor = std::floor(a / b);
  return Value(op == "//" ? floor : a - floor * b);
}

}  // namespace

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return "Undefined";
    case Value::Kind::kNull:
      return "NoneType";
    case Value::Kind::kBool:
      return "bool";
    case Value::Kind::kInt:
      return "int";
    case Value::Kind::kFloat:
      return "float";
    case Value::Kind::kString:
      return "str";
    case Value::Kind::kList:
      return value.is_tuple() ? "tuple" : "list";
    case Value::Kind::kDict:
      return "dict";
    case Value::Kind::kObject:
      return callable(value)->type();
  }
  return "";
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNull:
      return false;
    case Value::Kind::kBool:
      return value.as_bool();
    case Value::Kind::kInt:
      return value.as_int() != 0;
    case Value::Kind::kFloat:
      return value.as_float() != 0;
    case Value::Kind::kString:
      return !value.as_string().empty();
    case Value::Kind::kList:
      return !value.as_list().empty();
    case Value::Kind::kDict:
      return !value.as_dict().empty();
    case Value::Kind::kObject:
      return true;
  }
  return false;
}

std::string str(const Value& value) {
  if (value.is_string()) return value.as_string();
  if (value.is_undefined()) return "";
  return repr(value);
}

std::string repr(const Value& value) {
  std::string out;
  repr_to(value, out, 0);
  return out;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return both_int(a, b) ? a.as_int() == b.as_int() : a.as_float() == b.as_float();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kString:
      return a.as_string() == b.as_string();
    case Value::Kind::kList:
      return a.is_tuple() == b.is_tuple() &&
             std::equal(a.as_list().begin(), a.as_list().end(), b.as_list().begin(), b.as_list().end(), equal);
    case Value::Kind::kDict: {
      if (a.as_dict().size() != b.as_dict().size()) return false;
      for (const auto& [key, item] : a.as_dict().entries()) {
        const Value* other = b.find(key);
        if (other == nullptr || !equal(item, *other)) return false;
      }
      return true;
    }
    case Value::Kind::kObject:
      return a.as_object() == b.as_object();
    default:
      return true;  // None, undefined
  }
}

bool less(const Value& a, const Value& b, const char* op) {
  require_defined(a);
  require_defined(b);
  if (a.is_number() && b.is_number()) {
    return both_int(a, b) ? a.as_int() < b.as_int() : a.as_float() < b.as_float();
  }
  if (a.is_string() && b.is_string()) return a.as_string() < b.as_string();
  if (a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    const List &x = a.as_list(), &y = b.as_list();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(x[i], y[i])) return less(x[i], y[i], op);
    }
    return x.size() < y.size();
  }
  fail(fmt::format("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b)));
}

bool contains(const Value& container, const Value& item) {
  if (container.is_undefined()) return false;
  if (container.is_string()) {
    if (!item.is_string()) {
      require_defined(item);
      fail(fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
    }
    return container.as_string().find(item.as_string()) != std::string::npos;
  }
  if (container.is_dict()) return item.is_string() && container.find(item.as_string()) != nullptr;
  if (container.is_list()) {
    return std::any_of(container.as_list().begin(), container.as_list().end(),
                       [&](const Value& v) { return equal(v, item); });
  }
  if (container.is_object()) {
    const List list = items(container);
    return std::any_of(list.begin(), list.end(), [&](const Value& v) { return equal(v, item); });
  }
  fail(fmt::format("argument of type '{}' is not iterable", type_name(container)));
}

Value binary(std::string_view op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  if (op == "%" && a.is_string()) return Value(format_percent(a.as_string(), b));
  if (a.is_number() && b.is_number()) {
    const bool negative_power = op == "**" && !b.is_float() && b.as_int() < 0;
    return both_int(a, b) && op != "/" && !negative_power ? integer_op(op, a.as_int(), b.as_int())
                                                          : float_op(op, a.as_float(), b.as_float());
  }
  if (op == "+" && a.is_string() && b.is_string()) {
    if (a.as_string().size() + b.as_string().size() > kMaxText) fail("text exceeds the template limit of 64 MiB");
    return Value(a.as_string() + b.as_string());
  }
  if (op == "+" && a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    if (a.as_list().size() + b.as_list().size() > kMaxItems) fail("list exceeds the template limit of 1048576 items");
    List out = a.as_list();
    out.insert(out.end(), b.as_list().begin(), b.as_list().end());
    return Value(std::move(out), a.is_tuple());
  }
  const auto countable = [](const Value& v) { return v.is_int() || v.is_bool(); };
  if (op == "*" && (a.is_string() || a.is_list()) && countable(b)) return repeat(a, b.as_int());
  if (op == "*" && (b.is_string() || b.is_list()) && countable(a)) return repeat(b, a.as_int());
  if (op == "+" && (a.is_string() || a.is_list())) {
    fail(fmt::format("can only concatenate {0} (not \"{1}\") to {0}", type_name(a), type_name(b)));
  }
  fail(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", op == "**" ? "** or pow()" : op, type_name(a),
                   type_name(b)));
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.is_float()) return Value(-value.as_float());
  if (!value.is_number()) fail(fmt::format("bad operand type for unary -: '{}'", type_name(value)));
  return integer_op("-", 0, value.as_int());
}

int64_t length(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return 0;
    case Value::Kind::kString:
      return static_cast<int64_t>(count_codes(value.as_string()));
    case Value::Kind::kList:
      return static_cast<int64_t>(value.as_list().size());
    case Value::Kind::kDict:
      return static_cast<int64_t>(value.as_dict().size());
    case Value::Kind::kObject:
      if (const auto n = callable(value)->size()) return *n;
      [[fallthrough]];
    default:
      fail(fmt::format("object of type '{}' has no len()", type_name(value)));
  }
}

std::vector<std::string> characters(std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    next_code(text, at);
    out.emplace_back(text.substr(begin, at - begin));
  }
  return out;
}

List items(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return {};
    case Value::Kind::kList:
      return value.as_list();
    case Value::Kind::kString: {
      List out;
      for (std::string& c : characters(value.as_string())) out.emplace_back(std::move(c));
      return out;
    }
    case Value::Kind::kDict: {
      List out;
      for (const auto& [key, item] : value.as_dict().entries()) out.emplace_back(key);
      return out;
    }
    case Value::Kind::kObject:
      if (auto list = callable(value)->iterate()) return std::move(*list);
      [[fallthrough]];
    default:
      fail(fmt::format("'{}' object is not iterable", type_name(value)));
  }
}

Value slice(const Value& value, const Value& start, const Value& stop, const Value& step_value) {
  require_defined(value);
  if (!value.is_string() && !value.is_list())
    return Value::undefined(fmt::format("'{}' object cannot be sliced", type_name(value)));
  const List list = items(value);
  const int64_t n = static_cast<int64_t>(list.size());
  const auto number = [&](const Value& v, int64_t fallback) {
    if (v.is_null()) return fallback;
    require_defined(v);
    if (!v.is_int() && !v.is_bool()) fail("slice indices must be integers or None");
    return v.as_int();
  };
  const int64_t step = number(step_value, 1);
  if (step == 0) fail("slice step cannot be zero");
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -n ? -1 : i + n;
    return std::clamp<int64_t>(i, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
  };
  const int64_t from = start.is_null() ? (step > 0 ? 0 : n - 1) : clamp(number(start, 0));
  const int64_t to = stop.is_null() ? (step > 0 ? n : -1) : clamp(number(stop, 0));
  List out;
  for (int64_t i = from; step > 0 ? i < to : i > to;) {
    out.push_back(list[static_cast<size_t>(i)]);
    if (step > n || step < -n) break;
    i += step;
  }
  if (value.is_list()) return Value(std::move(out), value.is_tuple());
  std::string text;
  for (const Value& c : out) text += c.as_string();
  return Value(std::move(text));
}

std::string format_percent(const std::string& format, const Value& arguments) {
  const List list = arguments.is_tuple() ? arguments.as_list() : List{arguments};
  size_t used = 0;
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string spec = "%";
    Value argument;
    bool named = false;
    if (i + 1 < format.size() && format[i + 1] == '(') {
      const size_t close = format.find(')', i);
      if (close == std::string::npos) fail("incomplete format key");
      const Value* found = arguments.find(format.substr(i + 2, close - i - 2));
      if (found == nullptr) fail("format key not found");
      argument = *found;
      named = true;
      i = close;
    }
    while (++i < format.size() && std::string_view("-+ #0123456789.").find(format[i]) != std::string_view::npos)
      spec += format[i];
    if (i >= format.size()) fail("incomplete format");
    if (spec.size() > 12) fail("format specification is too long");
    const char type = format[i];
    if (type == '%') {
      out += '%';
      continue;
    }
    if (!named) {
      if (used >= list.size()) fail("not enough arguments for format string");
      argument = list[used++];
    }
    require_defined(argument);
    char buffer[512];
    const auto number = [&] {
      if (!argument.is_number())
        fail(fmt::format("%{} format: a number is required, not {}", type, type_name(argument)));
    };
    if (type == 's' || type == 'r') {
      const std::string text = type == 's' ? str(argument) : repr(argument);
      if (spec == "%") {
        out += text;
        continue;
      }
      const size_t width = std::min<size_t>(static_cast<size_t>(std::abs(std::atoi(spec.c_str() + 1))), 10000);
      const size_t pad = width - std::min(width, count_codes(text));
      out += spec[1] == '-' ? text + std::string(pad, ' ') : std::string(pad, ' ') + text;
    } else if (type == 'd' || type == 'i' || type == 'x' || type == 'X' || type == 'o') {
      number();
      const long long whole = argument.is_float() ? static_cast<long long>(argument.as_float()) : argument.as_int();
      std::snprintf(buffer, sizeof buffer, (spec + "ll" + (type == 'i' ? 'd' : type)).c_str(), whole);
      out += buffer;
    } else if (type == 'f' || type == 'F' || type == 'e' || type == 'g') {
      number();
      std::snprintf(buffer, sizeof buffer, (spec + type).c_str(), argument.as_float());
      out += buffer;
    } else {
      fail(fmt::format("unsupported format character '{}'", type));
    }
  }
  if (!arguments.is_dict() && arguments.is_tuple() && used < list.size())
    fail("not all arguments converted during string formatting");
  return out;
}

}  // namespace sluice::python

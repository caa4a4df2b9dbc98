// SPDX-License-Identifier: Apache-2.0
#include "grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "grammar/formats.h"
#include "grammar/json_parts.h"
#include "grammar/regex.h"

namespace sluice::grammar {
namespace {

using Json = nlohmann::ordered_json;
using Names = std::set<std::string, std::less<>>;

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxCount = 1 << 30;

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  throw RequestError(RequestError::Kind::kValidation,
                     fmt::format("JSON schema: {} at {}", what, where.empty() ? "#" : where), "grammar");
}

const Names kAnnotations{"title",       "description", "default",       "examples",         "example",        "$schema",
                         "$id",         "$comment",    "deprecated",    "readOnly",         "writeOnly",      "$defs",
                         "definitions", "$anchor",     "discriminator", "contentMediaType", "contentEncoding"};
const Names kObject{"properties", "required", "additionalProperties", "minProperties", "maxProperties"};
const Names kArray{"items", "prefixItems", "minItems", "maxItems"};
const Names kString{"minLength", "maxLength", "pattern", "format"};
const Names kNumber{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};

enum Type : unsigned { kNull = 1, kBool = 2, kInt = 4, kNum = 8, kStr = 16, kArr = 32, kObj = 64, kAnyType = 127 };

unsigned type_bit(std::string_view name) {
  if (name == "null") return kNull;
  if (name == "boolean") return kBool;
  if (name == "integer") return kInt;
  if (name == "number") return kNum | kInt;
  if (name == "string") return kStr;
  if (name == "array") return kArr;
  if (name == "object") return kObj;
  return 0;
}

unsigned type_of(const Json& value) {
  if (value.is_null()) return kNull;
  if (value.is_boolean()) return kBool;
  if (value.is_number_integer()) return kInt;
  if (value.is_number()) return kNum;
  if (value.is_string()) return kStr;
  return value.is_array() ? kArr : kObj;
}

class Compiler {
 public:
  Compiler(Builder& builder, const Json& root) : b(builder), parts_(builder), root_(root) {}

  Expr schema(const Json& s, const std::string& where, int depth) {
    if (depth > kMaxDepth) refuse(where, fmt::format("more than {} levels", kMaxDepth));
    if (s.is_boolean()) return s.get<bool>() ? parts_.any() : b.never();
    if (!s.is_object()) refuse(where, "expected an object or a boolean, found " + s.dump().substr(0, 60));
    for (const auto& [key, value] : s.items()) {
      if (!known(key)) refuse(where, fmt::format("the keyword \"{}\" is not supported", key));
    }
    if (s.contains("$ref")) return only(s, "$ref", where), reference(s["$ref"], where, depth);
    for (const char* key : {"anyOf", "oneOf", "allOf"})
      if (s.contains(key)) return only(s, key, where), combined(s, key, where, depth);
    if (s.contains("const")) return only(s, "const", where, "type"), values(s, Json::array({s["const"]}), where);
    if (s.contains("enum")) return only(s, "enum", where, "type"), values(s, s["enum"], where);
    const unsigned types = wanted(s, where);
    if (types == kAnyType) return parts_.any();
    std::vector<Expr> ways;
    if ((types & kObj) != 0) ways.push_back(object(s, where, depth));
    if ((types & kArr) != 0) ways.push_back(array(s, where, depth));
    if ((types & kStr) != 0) ways.push_back(string(s, where));
    if ((types & kNum) != 0) {
      ways.push_back(number(s, where));
    } else if ((types & kInt) != 0) {
      ways.push_back(integer(s, where));
    }
    if ((types & kBool) != 0) ways.push_back(b.any_of({"true", "false"}));
    if ((types & kNull) != 0) ways.push_back(b.literal("null"));
    return b.alt(std::move(ways));
  }

 private:
  static bool known(const std::string& key) {
    static const Names kOther{"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"};
    return kOther.contains(key) || kAnnotations.contains(key) || kObject.contains(key) || kArray.contains(key) ||
           kString.contains(key) || kNumber.contains(key);
  }

  void only(const Json& s, std::string_view key, const std::string& where, std::string_view also = {}) const {
    for (const auto& [name, value] : s.items()) {
      if (name != key && name != also && !kAnnotations.contains(name))
        refuse(where, fmt::format("\"{}\" together with \"{}\" is not supported", name, key));
    }
  }

  // The types that the schema speaks of: those named, else the one whose keywords it has, else all.
  unsigned wanted(const Json& s, const std::string& where) const {
    if (!s.contains("type")) {
      for (const auto& [name, value] : s.items()) {
        if (kObject.contains(name)) return kObj;
        if (kArray.contains(name)) return kArr;
        if (kString.contains(name)) return kStr;
        if (kNumber.contains(name)) return kNum | kInt;
      }
      return kAnyType;
    }
    const Json list = s["type"].is_array() ? s["type"] : Json::array({s["type"]});
    unsigned types = 0;
    for (const Json& name : list) {
      const unsigned bit = name.is_string() ? type_bit(name.get_ref<const std::string&>()) : 0;
      if (bit == 0)
        refuse(where, "type: expected null, boolean, integer, number, string, array or object, found " +
                          name.dump().substr(0, 60));
      types |= bit;
    }
    if (types == kAnyType && s.size() > 1) return kAnyType | 128;  // keywords beside it still count
    return types;
  }

  std::optional<uint32_t> count(const Json& s, const char* key, const std::string& where) const {
    if (!s.contains(key)) return {};
    const Json& v = s[key];
    const double n = v.is_number() ? v.get<double>() : -1;
    if (!(n >= 0 && n <= kMaxCount) || n != static_cast<double>(static_cast<int64_t>(n)))
      refuse(where,
             fmt::format("{}: expected a whole number from 0 to {}, found {}", key, kMaxCount, v.dump().substr(0, 60)));
    return static_cast<uint32_t>(n);
  }

  const Json& target(const Json& ref, const std::string& where) const {
    if (!ref.is_string()) refuse(where, "$ref: expected a string");
    const auto& text = ref.get_ref<const std::string&>();
    if (text != "#" && !text.starts_with("#/"))
      refuse(where, fmt::format("$ref \"{}\" is not supported; only parts of the schema itself, \"#/...\", are",
                                text.substr(0, 80)));
    std::string pointer;
    for (size_t i = 1; i < text.size(); ++i) {
      unsigned code = 0;
      if (text[i] == '%' && i + 2 < text.size() &&
          std::from_chars(text.data() + i + 1, text.data() + i + 3, code, 16).ptr == text.data() + i + 3) {
        pointer += static_cast<char>(code);
        i += 2;
      } else {
        pointer += text[i];
      }
    }
    try {
      return root_.at(Json::json_pointer(pointer));
    } catch (const Json::exception&) {
      refuse(where, fmt::format("$ref \"{}\" names nothing", text.substr(0, 80)));
    }
  }

  Expr reference(const Json& ref, const std::string& where, int depth) {
    const Json& to = target(ref, where);
    const auto& name = ref.get_ref<const std::string&>();
    if (const auto it = rules_.find(&to); it != rules_.end()) return b.call(it->second);
    const uint32_t rule = b.new_rule(name);
    rules_.emplace(&to, rule);
    b.define(rule, schema(to, name, depth + 1));
    return b.call(rule);
  }

  Expr combined(const Json& s, const std::string& key, const std::string& where, int depth) {
    const Json& list = s[key];
    if (!list.is_array() || list.empty()) refuse(where, key + ": expected a list of schemas");
    if (key == "allOf" && list.size() > 1) refuse(where, "\"allOf\" of several schemas is not supported");
    if (key == "oneOf") {
      for (size_t i = 0; i < list.size(); ++i)
        for (size_t j = 0; j < i; ++j)
          if (!disjoint(list[i], list[j], where, 0))
            refuse(where,
                   fmt::format("\"oneOf\" whose branches {} and {} may both hold is not supported; use anyOf", j, i));
    }
    std::vector<Expr> ways;
    for (size_t i = 0; i < list.size(); ++i)
      ways.push_back(schema(list[i], fmt::format("{}/{}/{}", where, key, i), depth + 1));
    return b.alt(std::move(ways));
  }

  const Json& resolved(const Json& s, const std::string& where) const {
    const Json* at = &s;
    for (int i = 0; i < 16 && at->is_object() && at->contains("$ref"); ++i) at = &target((*at)["$ref"], where);
    return *at;
  }

  // True when no value can satisfy both: by type, by listed values, or by a property that both require.
  bool disjoint(const Json& s1, const Json& s2, const std::string& where, int depth) const {
    const Json &x = resolved(s1, where), &y = resolved(s2, where);
    if (depth > 4 || !x.is_object() || !y.is_object()) return false;
    const std::optional<Json> vx = listed(x), vy = listed(y);
    const auto types = [&](const Json& s, const std::optional<Json>& values) {
      unsigned bits = 0;
      if (values) {
        for (const Json& v : *values) bits |= type_of(v);
        return bits;
      }
      return s.contains("type") ? wanted(s, where) & kAnyType : unsigned{kAnyType};
    };
    const auto widened = [](unsigned bits) { return (bits & (kInt | kNum)) != 0 ? bits | kInt | kNum : bits; };
    if ((widened(types(x, vx)) & widened(types(y, vy))) == 0) return true;
    if (vx && vy) {
      for (const Json& v : *vx)
        if (std::ranges::find(*vy, v) != vy->end()) return false;
      return true;
    }
    if (types(x, vx) != kObj || types(y, vy) != kObj || vx || vy) return false;
    for (const std::string& name : required(x, where)) {
      const Names other = required(y, where);
      if (other.contains(name) && x.contains("properties") && y.contains("properties") &&
          x["properties"].contains(name) && y["properties"].contains(name) &&
          disjoint(x["properties"][name], y["properties"][name], where, depth + 1))
        return true;
    }
    return false;
  }

  static std::optional<Json> listed(const Json& s) {
    if (s.contains("const")) return Json::array({s["const"]});
    if (s.contains("enum") && s["enum"].is_array()) return s["enum"];
    return {};
  }

  Expr values(const Json& s, const Json& list, const std::string& where) {
    if (!list.is_array() || list.empty()) refuse(where, "enum: expected a list of values");
    const unsigned types = s.contains("type") ? wanted(s, where) : unsigned{kAnyType};
    std::vector<std::string> texts;
    for (const Json& value : list) {
      if ((type_of(value) & types) == 0) continue;
      texts.push_back(value.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    if (texts.empty()) refuse(where, "no value of the enum has the type asked for");
    return b.any_of(texts);
  }

  Names required(const Json& s, const std::string& where) const {
    Names names;
    if (!s.contains("required")) return names;
    if (!s["required"].is_array()) refuse(where, "required: expected a list of names");
    for (const Json& name : s["required"]) {
      if (!name.is_string()) refuse(where, "required: expected a list of names");
      names.insert(name.get<std::string>());
    }
    return names;
  }

  Expr object(const Json& s, const std::string& where, int depth) {
    struct Property {
      Expr rest;  // behind its opening quote, as all of `members`: what may come next shares comma, space and quote
      bool required;
    };
    const Names must = required(s, where);
    const bool open = !s.contains("additionalProperties") || s["additionalProperties"] != Json(false);
    const std::optional<uint32_t> least = count(s, "minProperties", where), most = count(s, "maxProperties", where);
    std::vector<Property> properties;
    std::vector<std::string> names;
    if (s.contains("properties")) {
      if (!s["properties"].is_object()) refuse(where, "properties: expected an object");
      for (const auto& [name, inner] : s["properties"].items()) {
        const Expr value = schema(inner, fmt::format("{}/properties/{}", where, name), depth + 1);
        properties.push_back({parts_.pair(parts_.key(name), value), must.contains(name)});
        names.push_back(name);
      }
    }
    // Without an explicit wish further properties are left out: models close what they were asked for.
    const bool asked = s.contains("additionalProperties") || properties.empty();
    Expr more = b.never();
    if (open) {
      const Expr value = s.contains("additionalProperties")
                             ? schema(s["additionalProperties"], where + "/additionalProperties", depth + 1)
                             : parts_.any();
      for (const std::string& name : must) {
        if (std::ranges::find(names, name) != names.end()) continue;
        properties.push_back({parts_.pair(parts_.key(name), value), true});
        names.push_back(name);
      }
      if (asked) more = parts_.pair(parts_.other_key(names), value);
    } else {
      for (const std::string& name : must)
        if (std::ranges::find(names, name) == names.end())
          refuse(where,
                 fmt::format("\"{}\" is required, but additionalProperties is false and it is no property", name));
    }
    if (least.value_or(0) > properties.size())
      refuse(where, fmt::format("\"minProperties\" above the {} properties that have names is not supported",
                                properties.size()));

    // From the end: what may follow property i when `n` came before it. Counts matter up to a bound only.
    struct Next {
      Expr members;  // at least one
      bool end;      // or none
    };
    const uint32_t bound = most ? std::max(*most, least.value_or(0)) : std::max(least.value_or(0), 1u);
    if (uint64_t{bound} * (properties.size() + 1) > 1000000 && most && *most > properties.size() && !asked)
      refuse(where, "\"maxProperties\" is too large");
    const auto columns = static_cast<size_t>(std::min<uint64_t>(bound, properties.size() + 1)) + 1;
    const Expr quote = b.literal("\""), another = b.seq({parts_.comma(), quote});
    std::vector<Next> next(columns);
    for (uint32_t n = 0; n < columns; ++n) {
      const uint32_t room = !most ? kNoMax : *most > n ? *most - n : 0;
      next[n] = {b.never(), n >= least.value_or(0)};
      if (asked && open && room > 0 && next[n].end)
        next[n].members = b.seq({more, b.repeat(b.seq({another, more}), 0, room == kNoMax ? kNoMax : room - 1)});
    }
    const auto after = [&](Expr before, const Next& what) {
      const Expr all = b.seq({before, what.members});
      return what.end ? b.optional(all) : all;
    };
    for (size_t i = properties.size(); i-- > 0;) {
      std::vector<Expr> then;
      for (const Next& what : next) then.push_back(after(another, what));
      for (uint32_t n = 0; n < columns; ++n) {
        std::vector<Expr> ways;
        if (!most || n < *most) ways.push_back(b.seq({properties[i].rest, then[std::min<size_t>(n + 1, columns - 1)]}));
        if (!properties[i].required) ways.push_back(next[n].members);
        next[n] = {b.alt(std::move(ways)), next[n].end && !properties[i].required};
      }
    }
    return b.seq({b.literal("{"), parts_.space(), after(quote, next[0]), parts_.space(), b.literal("}")});
  }

  Expr array(const Json& s, const std::string& where, int depth) {
    const uint32_t least = count(s, "minItems", where).value_or(0), most = count(s, "maxItems", where).value_or(kNoMax);
    if (most < least) refuse(where, "maxItems is below minItems");
    std::vector<Expr> first;
    if (s.contains("prefixItems")) {
      if (!s["prefixItems"].is_array()) refuse(where, "prefixItems: expected a list of schemas");
      for (size_t i = 0; i < s["prefixItems"].size(); ++i)
        first.push_back(schema(s["prefixItems"][i], fmt::format("{}/prefixItems/{}", where, i), depth + 1));
    }
    if (s.contains("items") && s["items"].is_array())
      refuse(where, "\"items\" as a list is not supported; use prefixItems");
    const Expr item = s.contains("items") ? schema(s["items"], where + "/items", depth + 1) : parts_.any();
    const auto n = static_cast<uint32_t>(std::min<size_t>(first.size(), most));
    if (n == 0) return parts_.array(item, least, most);
    const bool more = !s.contains("items") || s["items"] != Json(false);
    Expr rest = b.empty();
    if (more && most > n) {
      rest = b.repeat(b.seq({parts_.comma(), item}), least > n ? least - n : 0, most == kNoMax ? kNoMax : most - n);
    } else if (least > n) {
      rest = b.never();
    }
    for (uint32_t i = n; i-- > 0;) {
      const Expr taken = i > 0 ? b.seq({parts_.comma(), first[i], rest}) : b.seq({first[i], rest});
      rest = i >= least ? b.alt({b.empty(), taken}) : taken;
    }
    return b.seq({b.literal("["), parts_.space(), rest, parts_.space(), b.literal("]")});
  }

  Expr string(const Json& s, const std::string& where) {
    const std::optional<uint32_t> least = count(s, "minLength", where), most = count(s, "maxLength", where);
    if (s.contains("pattern") || s.contains("format")) {
      const char* key = s.contains("pattern") ? "pattern" : "format";
      for (const char* other : {"minLength", "maxLength", "format"})
        if (s.contains(other) && std::string_view(other) != key)
          refuse(where, fmt::format("\"{}\" together with \"{}\" is not supported", other, key));
      if (!s[key].is_string()) refuse(where, fmt::format("{}: expected a string", key));
      const auto& text = s[key].get_ref<const std::string&>();
      if (s.contains("pattern")) return parts_.quoted(parse_regex(b, text, {.json = true, .search = true}));
      if (const std::string_view pattern = format_pattern(text); !pattern.empty())
        return parts_.quoted(parse_regex(b, pattern, {.json = true}));
      refuse(where, fmt::format("the format \"{}\" is not supported", text.substr(0, 60)));
    }
    if (most.value_or(kNoMax) < least.value_or(0)) refuse(where, "maxLength is below minLength");
    return parts_.string(least.value_or(0), most.value_or(kNoMax));
  }

  std::optional<Decimal> bound(const Json& s, const char* key, const std::string& where) const {
    if (!s.contains(key)) return {};
    const Json& v = s[key];
    if (!v.is_number()) refuse(where, fmt::format("{}: expected a number, found {}", key, v.dump().substr(0, 60)));
    std::string text = v.dump();
    if (text.ends_with(".0")) text.resize(text.size() - 2);
    Decimal d;
    if (const size_t point = text.find('.'); point != std::string::npos) {
      d.decimals = static_cast<int>(text.size() - point - 1);
      text.erase(point, 1);
    }
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), d.units);
    if (error != std::errc() || end != text.data() + text.size() || d.decimals > 15 || d.units > 100000000000000000 ||
        d.units < -100000000000000000)
      refuse(where, fmt::format("{}: {} has more than 17 digits or an exponent, which is not supported", key,
                                v.dump().substr(0, 60)));
    return d;
  }

  struct Range {
    std::optional<Decimal> low, high;
    bool low_open = false, high_open = false;
  };
  Range range(const Json& s, const std::string& where) const {
    Range r{bound(s, "minimum", where), bound(s, "maximum", where)};
    const auto value = [](const Decimal& d) {
      long double v = static_cast<long double>(d.units);
      for (int i = 0; i < d.decimals; ++i) v /= 10;
      return v;
    };
    if (const auto d = bound(s, "exclusiveMinimum", where); d && (!r.low || value(*d) >= value(*r.low)))
      r.low = d, r.low_open = true;
    if (const auto d = bound(s, "exclusiveMaximum", where); d && (!r.high || value(*d) <= value(*r.high)))
      r.high = d, r.high_open = true;
    return r;
  }

  Expr integer(const Json& s, const std::string& where) {
    const Range r = range(s, where);
    const auto whole = [](const Decimal& d, bool up, bool open) {
      int64_t scale = 1;
      for (int i = 0; i < d.decimals; ++i) scale *= 10;
      int64_t value = d.units / scale - (d.units % scale < 0 ? 1 : 0);  // floor
      const bool exact = d.units % scale == 0;
      if (up && (!exact || open)) ++value;
      if (!up && exact && open) --value;
      return value;
    };
    std::optional<int64_t> low, high;
    if (r.low) low = whole(*r.low, true, r.low_open);
    if (r.high) high = whole(*r.high, false, r.high_open);
    return parts_.integer(low, high);
  }

  Expr number(const Json& s, const std::string& where) {
    const Range r = range(s, where);
    if (!r.low && !r.high) return parts_.number();
    return parts_.number(r.low, r.low_open, r.high, r.high_open);
  }

  Builder& b;
  JsonParts parts_;
  const Json& root_;
  std::map<const Json*, uint32_t> rules_;
};

Json parse(std::string_view text, std::string_view what) {
  int depth = 0;
  bool deep = false;
  const auto watch = [&](int level, Json::parse_event_t, Json&) {
    depth = std::max(depth, level);
    deep = deep || level > 256;
    return !deep;
  };
  Json json;
  try {
    json = Json::parse(text, watch);
  } catch (const Json::exception& error) {
    throw RequestError(RequestError::Kind::kValidation, fmt::format("{}: {}", what, error.what()), "grammar");
  }
  if (deep)
    throw RequestError(RequestError::Kind::kValidation, fmt::format("{}: more than 256 levels", what), "grammar");
  return json;
}

}  // namespace

Expr parse_json_schema(Builder& builder, std::string_view text) {
  const Json root = parse(text, "JSON schema");
  return Compiler(builder, root).schema(root, "#", 0);
}

Expr parse_choice(Builder& builder, std::string_view text) {
  const Json list = parse(text, "choice");
  std::vector<std::string> texts;
  for (const Json& item : list) {
    if (!item.is_string()) refuse("choice", "expected a list of strings");
    texts.push_back(item.get<std::string>());
  }
  if (texts.empty()) refuse("choice", "expected at least one string");
  return builder.any_of(texts);
}

}  // namespace sluice::grammar

// SPDX-License-Identifier: Apache-2.0
// What each kind of grammar takes and refuses, text by text.
#include <doctest/doctest.h>

#include "base/error.h"
#include "grammar/vocabularies.h"

using namespace sluice;
using namespace sluice::grammar;
using Kind = GrammarSpec::Kind;

namespace {

const std::shared_ptr<Vocabulary>& vocabulary() {
  static const std::shared_ptr<Vocabulary> v = test::small_vocabulary();
  return v;
}

struct Case {
  Kind kind;
  std::string grammar;
  std::vector<std::string> good, bad;
};

void check_case(const Case& c) {
  CAPTURE(c.grammar);
  const auto runtime = test::runtime_of(c.kind, c.grammar, vocabulary());
  const auto whole = [&](const std::string& text) { return runtime->accepts(runtime->advance(Runtime::kStart, text)); };
  for (const std::string& text : c.good) CHECK_MESSAGE(whole(text), text);
  for (const std::string& text : c.bad) CHECK_MESSAGE(!whole(text), text);
}

std::string refusal(Kind kind, const std::string& text) {
  try {
    compile({kind, text}, *vocabulary());
  } catch (const RequestError& error) {
    CHECK(error.kind() == RequestError::Kind::kValidation);
    CHECK(error.param() == "grammar");
    return error.what();
  }
  return "";
}

bool names(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a regular expression matches the whole answer") {
  check_case({Kind::kRegex, "(\\d{3}-)?[a-c]+x?", {"123-abx", "a"}, {"", "12-a", "ax1", "d"}});
  check_case({Kind::kRegex, "^a{2,3}(b|c){2}$", {"aabc", "aaacc"}, {"abc", "aaaabb", "aab"}});
  check_case({Kind::kRegex, "[^a-y]é*?", {"z", "zéé", "日é"}, {"a", "zé\xC3"}});
  check_case({Kind::kRegex, ".{2}", {"ab", "日本", "ü\""}, {"a", "a\nb", "abc"}});
  check_case({Kind::kRegex, "a{,2}b{2,}", {"bb", "aabbb"}, {"aaabb", "ab"}});
  check_case({Kind::kRegex, "(?:ab|(?P<n>c))[\\]\\-]\\x41\\u00e9", {"ab]Aé", "c-Aé"}, {"abAé"}});
  check_case({Kind::kRegex, "a{1,100000}", {"a", std::string(5000, 'a')}, {"", "b"}});
  check_case({Kind::kRegex, "(a?){3}(b*)*", {"", "aaa", "abb"}, {"aaaa", "ba"}});
}

TEST_CASE("what a regular expression cannot be is refused with the place") {
  CHECK(names(refusal(Kind::kRegex, "(?=a)b"), "look-around at byte 1"));
  CHECK(names(refusal(Kind::kRegex, "(a)\\1"), "back-reference"));
  CHECK(names(refusal(Kind::kRegex, "\\bword"), "word border"));
  CHECK(names(refusal(Kind::kRegex, "a$b"), "$ before the end"));
  CHECK(names(refusal(Kind::kRegex, "(a"), "without end"));
  CHECK(names(refusal(Kind::kRegex, "a)"), "unmatched"));
  CHECK(names(refusal(Kind::kRegex, "*a"), "quantifier of nothing"));
  CHECK(names(refusal(Kind::kRegex, "a{3,2}"), "count"));
  CHECK(names(refusal(Kind::kRegex, "[b-a]"), "range"));
  CHECK(names(refusal(Kind::kRegex, std::string(150, '(')), "too deep"));
  CHECK(names(refusal(Kind::kRegex, "[^\\x00-\\U"), "escape \\U"));
  CHECK(names(refusal(Kind::kRegex, std::string(300000, 'a')), "bytes"));
}

TEST_CASE("any JSON object, and nothing after it") {
  check_case({Kind::kJsonObject,
              "",
              {"{}", "{ }", "{\"a\": 1}", "{\"a\":[1,{\"b\":null}], \"c\": \"\\u00e9\\\"\"}", "{\"x\": -0.5e+10}"},
              {"", "[]", "{", "{\"a\":}", "{\"a\":01}", "{\"a\":1}}", "{'a':1}", "{\"a\":\"\\ud800\"}", "{\"a\":1,}"}});
}

TEST_CASE("objects follow properties, required and additionalProperties") {
  const std::string closed =
      R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"required":["b"],)"
      R"("additionalProperties":false})";
  check_case(
      {Kind::kJsonSchema,
       closed,
       {R"({"b":true})", R"({"a":1,"b":false})", "{\n  \"a\": 12,\n  \"b\": true\n}"},
       {"{}", R"({"a":1})", R"({"b":true,"c":1})", R"({"b":1})", R"({"b":true,"b":true})", R"({"b":true,"a":1})"}});
  const std::string open =
      R"({"properties":{"ab":{"type":"string"},"a":{"type":"null"}},"additionalProperties":{"type":"integer"}})";
  check_case({Kind::kJsonSchema,
              open,
              {"{}", R"({"ab":"x","abc":1})", R"({"x":1,"y":2})", R"({"a":null,"":3})"},
              {R"({"ab":1})", R"({"x":"s"})", R"({"\u0061b":1})", R"({"x":1,"ab":2})"}});
  check_case({Kind::kJsonSchema,
              R"({"properties":{"a":{},"b":{},"c":{}},"minProperties":2,"maxProperties":2})",
              {R"({"a":1,"b":2})", R"({"a":1,"c":[]})"},
              {R"({"a":1})", R"({"a":1,"b":2,"c":3})", "{}"}});
  check_case({Kind::kJsonSchema, R"({"type":"object","maxProperties":1})", {"{}", R"({"q":1})"}, {R"({"q":1,"r":2})"}});
  check_case({Kind::kJsonSchema,
              R"({"type":"object","required":["z"]})",
              {R"({"z":1})", R"({"z":1,"y":2})"},
              {"{}", R"({"y":1})"}});
}

TEST_CASE("arrays follow items, prefixItems and their counts") {
  check_case({Kind::kJsonSchema,
              R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
              {"[1,2]", "[1, 2, 3]", "[\n  1,\n  2\n]"},
              {"[]", "[1]", "[1,2,3,4]", "[1,true]", "[1,2,]"}});
  check_case({Kind::kJsonSchema,
              R"({"prefixItems":[{"type":"null"},{"type":"boolean"}],"items":{"type":"integer"}})",
              {"[]", "[null]", "[null,true]", "[null,true,1,2]"},
              {"[true]", "[null,1]", "[null,true,null]"}});
  check_case({Kind::kJsonSchema,
              R"({"prefixItems":[{"type":"null"}],"items":false,"minItems":1})",
              {"[null]"},
              {"[]", "[null,null]"}});
}

TEST_CASE("numbers keep their bounds") {
  check_case({Kind::kJsonSchema,
              R"({"type":"integer","minimum":-12,"exclusiveMaximum":250})",
              {"-12", "-9", "-1", "0", "7", "99", "100", "249"},
              {"-13", "-20", "250", "251", "1000", "1.5", "00", "-0", "1e2"}});
  check_case({Kind::kJsonSchema, R"({"type":"integer","minimum":3.2})", {"4", "10", "99999"}, {"3", "-4"}});
  check_case({Kind::kJsonSchema, R"({"type":"integer","maximum":-5})", {"-5", "-600"}, {"-4", "5", "0"}});
  check_case({Kind::kJsonSchema,
              R"({"type":"number","exclusiveMinimum":0.5,"maximum":2.25})",
              {"0.51", "1", "2", "2.25", "1.99"},
              {"0.5", "0.50", "2.26", "3", "0", "-1"}});
  check_case({Kind::kJsonSchema,
              R"({"type":"number","minimum":-1.125,"maximum":-0.5})",
              {"-1", "-1.125", "-0.500", "-0.999"},
              {"-1.126", "-0.499", "0", "1", "-2"}});
  check_case({Kind::kJsonSchema, R"({"type":"number"})", {"1", "-1.5e-3", "0.25"}, {".5", "01", "1.", "+1"}});
}

TEST_CASE("strings count characters, match patterns and formats") {
  check_case({Kind::kJsonSchema,
              R"({"type":"string","minLength":1,"maxLength":2})",
              {"\"a\"", "\"é日\"", "\"\\n\\u00e9\""},
              {"\"\"", "\"abc\"", "\"a", "\"\\ud83d\""}});
  check_case(
      {Kind::kJsonSchema, R"({"type":"string","pattern":"a+b"})", {"\"ab\"", "\"xaab\\n\""}, {"\"ba\"", "\"a\""}});
  check_case({Kind::kJsonSchema,
              R"({"type":"string","pattern":"^(yes|no)$"})",
              {"\"yes\"", "\"no\""},
              {"\"xyes\"", "\"noo\""}});
  check_case({Kind::kJsonSchema,
              R"({"type":"string","pattern":"a(b|c)|^d"})",
              {"\"xabx\"", "\"ac\"", "\"de\""},
              {"\"xd\"", "\"axb\""}});
  check_case({Kind::kJsonSchema, R"({"format":"uri"})", {"\"https://a.org:81/x/\""}, {"\"a.org\"", "\"http:// x\""}});
  check_case({Kind::kJsonSchema, R"({"format":"duration"})", {"\"PT5M\"", "\"P3D\""}, {"\"P\"", "\"5 days\""}});
  check_case({Kind::kJsonSchema, R"({"format":"hostname"})", {"\"a\"", "\"a-b.c1\""}, {"\"-a\"", "\"a..b\""}});
  check_case({Kind::kJsonSchema, R"({"pattern":"^\"\\d$"})", {"\"\\\"1\""}, {"\"1\"", "\"\"1\""}});
  check_case({Kind::kJsonSchema,
              R"({"type":"string","format":"date"})",
              {"\"2024-02-28\""},
              {"\"2024-02-31\"", "\"24-1-1\""}});
  check_case({Kind::kJsonSchema,
              R"({"type":"string","format":"uuid"})",
              {"\"00112233-4455-6677-8899-aabbccddeeff\""},
              {"\"0011\""}});
}

TEST_CASE("enum, const, unions and references") {
  check_case({Kind::kJsonSchema,
              R"({"enum":["a",1,null,{"k":[1]}]})",
              {"\"a\"", "1", "null", "{\"k\":[1]}"},
              {"\"b\"", "2", "{}"}});
  check_case({Kind::kJsonSchema, R"({"type":"string","enum":["a",1]})", {"\"a\""}, {"1"}});
  check_case({Kind::kJsonSchema, R"({"const":"q\"\n"})", {"\"q\\\"\\n\""}, {"\"q\""}});
  check_case({Kind::kJsonSchema, R"({"type":["integer","null"]})", {"1", "null"}, {"true", "\"1\""}});
  check_case({Kind::kJsonSchema, R"({"anyOf":[{"type":"boolean"},{"const":3}]})", {"true", "3"}, {"4"}});
  check_case({Kind::kJsonSchema,
              R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"array","items":{"$ref":"#/$defs/t"}}}})",
              {"[]", "[[],[[]]]"},
              {"[1]", "[[]"}});
  check_case({Kind::kJsonSchema,
              R"({"oneOf":[{"type":"object","properties":{"k":{"const":"x"}},"required":["k"]},)"
              R"({"type":"object","properties":{"k":{"const":"y"}},"required":["k"]}]})",
              {R"({"k":"x"})", R"({"k":"y"})"},
              {R"({"k":"z"})", "{}"}});
  check_case({Kind::kJsonSchema, "true", {"1", "[]", "\"a\""}, {"x"}});
}

TEST_CASE("what a schema cannot be is refused by name") {
  for (const char* keyword : {"patternProperties", "propertyNames", "uniqueItems", "contains", "not", "if",
                              "multipleOf", "dependentRequired", "unevaluatedProperties", "nullable", "whatever"})
    CHECK(names(refusal(Kind::kJsonSchema,
                        std::string("{\"type\":\"object\",\"properties\":{\"p\":{\"") + keyword + "\":{}}}}"),
                std::string("\"") + keyword + "\" is not supported at #/properties/p"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"type":"string","format":"iri"})"), "format \"iri\""));
  CHECK(
      names(refusal(Kind::kJsonSchema, R"({"pattern":"a","maxLength":3})"), "\"maxLength\" together with \"pattern\""));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"anyOf":[true],"minimum":3})"), "\"minimum\" together with \"anyOf\""));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"oneOf":[{"type":"integer"},{"type":"number"}]})"), "may both hold"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"allOf":[true,true]})"), "allOf"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"$ref":"http://x/y"})"), "$ref"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"$ref":"#/nowhere"})"), "names nothing"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"$ref":"#"})"), "no answer"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"type":"integer","minimum":3,"maximum":2})"), "no answer"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"type":"thing"})"), "thing"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"type":)"), "JSON schema"));
  CHECK(names(refusal(Kind::kJsonSchema, R"({"properties":{},"minProperties":1})"), "minProperties"));
  CHECK(names(refusal(Kind::kJsonSchema, "[]"), "expected an object"));
}

TEST_CASE("rules of an EBNF grammar may call each other, and not themselves first") {
  const std::string sums = "root ::= expr # a sum\nexpr ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" expr \")\"\n";
  check_case({Kind::kEbnf, sums, {"1", "1+(2+3)+4", "((7))"}, {"", "1+", "(1", "1)"}});
  check_case({Kind::kEbnf, "a ::= 'x'{2,3} b?\nb ::= [^a-z\\]] .", {"xx", "xxxAy"}, {"x", "xxa1", "xxxx"}});
  check_case({Kind::kEbnf, "list ::= \"\" | \"a\" list", {"", "a", std::string(3000, 'a')}, {"b"}});
  CHECK(names(refusal(Kind::kEbnf, "a ::= a \"x\" | \"y\""), "begins with itself"));
  CHECK(names(refusal(Kind::kEbnf, "a ::= b? a \"x\" | \"y\"\nb ::= \"z\""), "begins with itself"));
  CHECK(names(refusal(Kind::kEbnf, "a ::= b"), "b is used and not defined"));
  CHECK(names(refusal(Kind::kEbnf, "a ::= \"x\"\na ::= \"y\""), "there twice, at line 2"));
  CHECK(names(refusal(Kind::kEbnf, "start: \"x\""), "expected ::="));
  CHECK(names(refusal(Kind::kEbnf, ""), "at least one rule"));
}

TEST_CASE("a choice is one of its texts") {
  check_case({Kind::kChoice, R"(["yes","no","yesterday"])", {"yes", "no", "yesterday"}, {"", "y", "yester", "nono"}});
  CHECK(names(refusal(Kind::kChoice, "[1]"), "list of strings"));
  CHECK(names(refusal(Kind::kChoice, "[]"), "at least one"));
}

TEST_CASE("bytes that the vocabulary cannot spell are not asked for") {
  const auto letters =
      std::make_shared<Vocabulary>(std::vector<std::string>{"a", "b", "ab", "", "abc"}, std::vector<int32_t>{3});
  CHECK_THROWS_AS(compile({Kind::kRegex, "abc"}, *letters), RequestError);
  const auto runtime = test::runtime_of(Kind::kRegex, "a(b|c)", letters);
  CHECK(runtime->advance(Runtime::kStart, "ac") == Runtime::kNowhere);
  CHECK(runtime->accepts(runtime->advance(Runtime::kStart, "ab")));
}

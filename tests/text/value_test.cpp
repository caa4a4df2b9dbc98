// SPDX-License-Identifier: Apache-2.0
#include "text/value.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "text/unicode.h"

using namespace sluice;

namespace {
std::string again(std::string_view text) { return Value::parse_json(text).dump_json(); }
}  // namespace

TEST_CASE("JSON keeps order, integers and Python's spelling") {
  CHECK(again(R"( {"b":1,"a":[true,false,null,-2,1.0,1e20,0.1,"x\u00e9\n\ud83d\ude00"],"b":{"z":{},"y":[]}} )") ==
        R"({"b": {"z": {}, "y": []}, "a": [true, false, null, -2, 1.0, 1e+20, 0.1, "xé\n😀"]})");
  CHECK(again("9223372036854775807") == "9223372036854775807");
  CHECK(again("1e16") == "1e+16");
  CHECK(again("123456789012345.0") == "123456789012345.0");
  CHECK(again("0.0001") == "0.0001");
  CHECK(again("0.00001") == "1e-05");
  CHECK(again(R"("\ud800x")") == "\"\uFFFDx\"");
  CHECK(again(R"("\u0001\b</script>")") == R"("\u0001\b</script>")");
  CHECK(Value::parse_json(R"({"a":[1,{"b":2}]})").dump_compact() == R"({"a":[1,{"b":2}]})");
  CHECK(Value::parse_json(R"({"a":[1,{}],"b":[]})").dump_json(2) ==
        "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
}

TEST_CASE("text that is not JSON is refused with its place") {
  for (const char* text : {"", "{", "[1,]", "{\"a\"}", "01", "1 2", "\"a", "nul", "[1 2]", "\"\\x\"", "\"\t\"", "-",
                           "1.", "\"\xff\"", "\"\\u12g4\""}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(Value::parse_json(text), doctest::Contains("at byte"), RequestError);
  }
  CHECK_THROWS_AS(Value::parse_json(std::string(100000, '[')), RequestError);
}

TEST_CASE("dicts find their keys, few or many, and replace in place") {
  Dict dict;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 5000; ++i) dict.set("key" + std::to_string(i), i + round);
  }
  CHECK(dict.size() == 5000);
  CHECK(dict.entries()[4321].first == "key4321");
  for (int i = 0; i < 5000; ++i) REQUIRE(dict.find("key" + std::to_string(i))->as_int() == i + 1);
  CHECK(dict.find("key5000") == nullptr);
}

TEST_CASE("ill-formed UTF-8 becomes one replacement character per maximal part") {
  CHECK(to_utf8_lossy("a\xF0\x9F\x98z") == "a\uFFFDz");
  CHECK(to_utf8_lossy("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(to_utf8_lossy("\xC0\xAF\xF5") == "\uFFFD\uFFFD\uFFFD");
  CHECK(to_utf8_lossy("\xE4\xBD\xA0") == "你");
  CHECK_FALSE(is_utf8("\xF4\x90\x80\x80"));
}

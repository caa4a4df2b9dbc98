// SPDX-License-Identifier: Apache-2.0
#include "api/json.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"

using namespace sluice;

TEST_CASE("text is escaped so that any parser reads it back") {
  std::string text, out;
  for (int c = 0; c < 256; ++c)
    if (c < 128) text += static_cast<char>(c);
  text += "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
  append_json_string(out, text);
  JsonBody body("{\"t\":" + out + "}");
  CHECK(*body.root()["t"].string() == text);
  out.clear();
  append_json_string(out, "a\"b\\c\n\x01");
  CHECK(out == "\"a\\\"b\\\\c\\n\\u0001\"");
}

TEST_CASE("numbers are short, floats stay floats, and what is no number is null") {
  auto of = [](auto v) {
    std::string out;
    append_json_number(out, v);
    return out;
  };
  CHECK(of(-0.5f) == "-0.5");
  CHECK(of(0.0f) == "0.0");
  CHECK(of(0.1f) == "0.1");
  CHECK(of(1e20f) == "1e+20");
  CHECK(of(NAN) == "null");
  CHECK(of(-INFINITY) == "null");
  CHECK(of(2.0) == "2.0");
}

TEST_CASE("members are read by type, and nothing is taken for what it is not") {
  JsonBody body(R"({"i":3,"f":3.0,"h":3.5,"s":"x","b":true,"n":null,"u":18446744073709551615,"m":-1,"l":[1,2]})");
  JsonView r = body.root();
  CHECK(*r["i"].integer() == 3);
  CHECK(*r["f"].integer() == 3);
  CHECK_FALSE(r["h"].integer());
  CHECK_FALSE(r["s"].number());
  CHECK_FALSE(r["b"].integer());
  CHECK(*r["u"].unsigned_integer() == UINT64_MAX);
  CHECK_FALSE(r["u"].integer());
  CHECK_FALSE(r["m"].unsigned_integer());
  CHECK(r["n"].unset());
  CHECK(r["gone"].missing());
  CHECK(r["l"].size() == 2);
  CHECK(r["l"].at(2).missing());
  CHECK(r["s"]["deeper"].missing());
}

TEST_CASE("what is not JSON, or nested without end, is refused") {
  for (const char* bad : {"", "{", "{\"a\":}", "nul", "{\"a\":1}x", "\"\xff\"", "[1,]"}) {
    INFO(bad);
    CHECK_THROWS_AS(JsonBody{bad}, RequestError);
  }
  CHECK_THROWS_AS(JsonBody{std::string(100000, '[')}, RequestError);
  CHECK_NOTHROW(JsonBody{std::string(100, '[') + std::string(100, ']')});
}

TEST_CASE("the names of a body's members are found without reading the rest") {
  CHECK(outline(R"({"a":{"x":1},"b":[{"y":2}],"c":3})").keys == std::vector<std::string>{"a", "b", "c"});
  CHECK(outline(R"({"a":{"model":"x"},"model":"y"})").model == "y");
  CHECK(outline(R"({"model":7})").model.empty());
  CHECK(outline("[1,2]").keys.empty());
  CHECK(outline("nonsense").keys.empty());
  CHECK(outline(R"({"a":1,"b")").keys.size() <= 2);
}

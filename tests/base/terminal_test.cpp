// SPDX-License-Identifier: Apache-2.0
#include "base/terminal.h"

#include <doctest/doctest.h>

using namespace sluice;

TEST_CASE("a line that is too long is broken at blanks, beneath where its text begins") {
  CHECK(broken("short", 10) == "short");
  CHECK(broken("state        one two three four", 28) == "state        one two three\n             four");
  CHECK(broken("  /set     NAME VALUE: a parameter\n  /bye     leave", 28) ==
        "  /set     NAME VALUE: a\n           parameter\n  /bye     leave");
  CHECK(broken("time info one two three", 14) == "time info\n  one two\n  three");
  CHECK(broken("ends\n", 10) == "ends\n");
}

TEST_CASE("text that has no room beside its name stands under it") {
  CHECK(broken("url          http://n1:10148/v1/models", 30) == "url\n  http://n1:10148/v1/models");
  CHECK(broken("a very long name  and words", 20) == "a very long name\n  and words");
}

TEST_CASE("a table that is too wide does without its spare columns, then gives each record lines of its own") {
  Table plain("lrl");
  plain.add({"JOB", "LEFT", "MODEL"});
  plain.add({"148", "1:00:00", "org/name"}, "loading the weights of a model");
  CHECK(plain.text_in(40) == "JOB     LEFT  MODEL\n148  1:00:00  org/name\n  loading the weights of a model\n");
  CHECK(plain.text_in(21) == "JOB\n  LEFT  MODEL\n148\n  1:00:00  org/name\n  loading the weights\n  of a model\n");
  CHECK(plain.text_in(16) ==
        "JOB\n  LEFT  MODEL\n148\n  1:00:00\n  org/name\n  loading the\n  weights of a\n  model\n");
  Table spare("lrrr", {2, 3});
  spare.add({"GPU", "GPUs", "room", "tokens"});
  spare.add({"H100", "2", "61.5", "100000"});
  CHECK(spare.text_in(24) == "GPU   GPUs  room  tokens\nH100     2  61.5  100000\n");
  CHECK(spare.text_in(20) == "GPU   GPUs  tokens\nH100     2  100000\na wider terminal has\nroom too\n");
  CHECK(spare.text_in(10) == "GPU   GPUs\nH100     2\na wider\nterminal\nhas room,\ntokens too\n");
}

TEST_CASE("a file or a pipe gets every column of a table and every line as it is") {
  Table table("ll", {1});
  table.add({std::string(80, 'a'), std::string(80, 'b')});
  CHECK(table.text(-1) == std::string(80, 'a') + "  " + std::string(80, 'b') + "\n");
  CHECK(fitted(std::string(300, 'x') + " y", -1) == std::string(300, 'x') + " y");
}

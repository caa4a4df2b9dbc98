// SPDX-License-Identifier: Apache-2.0
#include "cluster/hostlist.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace sluice;
using Names = std::vector<std::string>;

TEST_CASE("a range keeps the width of its low end") {
  CHECK(expand_hostlist("node[008-010]") == Names{"node008", "node009", "node010"});
  CHECK(expand_hostlist("node[8-12]") == Names{"node8", "node9", "node10", "node11", "node12"});
  CHECK(expand_hostlist("n[0]") == Names{"n0"});
}

TEST_CASE("ranges, single numbers and plain names mix") {
  CHECK(expand_hostlist("node[1,3-5],gpu07,login") == Names{"node1", "node3", "node4", "node5", "gpu07", "login"});
}

TEST_CASE("a dash outside brackets belongs to the name") {
  CHECK(expand_hostlist("cn-g-017,gpu-3") == Names{"cn-g-017", "gpu-3"});
  CHECK(expand_hostlist("rack-2-n[1-2]") == Names{"rack-2-n1", "rack-2-n2"});
}

TEST_CASE("a suffix may follow a bracket") {
  CHECK(expand_hostlist("node[0001-0002]-int") == Names{"node0001-int", "node0002-int"});
}

TEST_CASE("several brackets expand as a product with the last one fastest") {
  CHECK(expand_hostlist("a[1-2]b[3-4]") == Names{"a1b3", "a1b4", "a2b3", "a2b4"});
}

TEST_CASE("blanks, tabs and newlines separate as commas do") {
  CHECK(expand_hostlist("a b\tc\nd,,e ") == Names{"a", "b", "c", "d", "e"});
  CHECK(expand_hostlist("").empty());
}

TEST_CASE("a broken host list is refused with its place") {
  CHECK_THROWS_WITH_AS(expand_hostlist("n[1-2"), doctest::Contains("character 2: '[' is never closed"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n1]"), doctest::Contains("']' without '['"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[1-[2]]"), doctest::Contains("do not nest"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[3-1]"), doctest::Contains("'3-1' runs backwards"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[a-b]"), doctest::Contains("not a number"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[]"), doctest::Contains("not a number"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[1,]"), doctest::Contains("not a number"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[1-2-3]"), doctest::Contains("not a number"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("n[" + std::string(40, '0') + "-9]"), doctest::Contains("32 digits"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist(std::string(300, 'n')), doctest::Contains("255 characters"), Error);
  CHECK(expand_hostlist("n[18446744073709551615]") == std::vector<std::string>{"n18446744073709551615"});
  CHECK_THROWS_WITH_AS(expand_hostlist("n[99999999999999999999]"), doctest::Contains("not a number"), Error);
}

TEST_CASE("a list of absurd length is refused before it fills the memory") {
  CHECK_THROWS_WITH_AS(expand_hostlist("n[0-18446744073709551615]"), doctest::Contains("more than 262144"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("a[0-99999]b[0-99999]"), doctest::Contains("more than 262144"), Error);
  CHECK_THROWS_WITH_AS(expand_hostlist("a[0-200000],b[0-200000]"), doctest::Contains("more than 262144"), Error);
  CHECK(expand_hostlist("n[0-262143]").size() == 262144);
}

TEST_CASE("task counts repeat as (xN) says") {
  CHECK(expand_task_counts("2(x3),1") == std::vector<int>{2, 2, 2, 1});
  CHECK(expand_task_counts("8") == std::vector<int>{8});
  CHECK(expand_task_counts("4,2(x2)", 3) == std::vector<int>{4, 2, 2});
}

TEST_CASE("task counts that do not match the node list are refused") {
  CHECK_THROWS_WITH_AS(expand_task_counts("2(x3)", 2), doctest::Contains("for 3 hosts, but the node list has 2"),
                       Error);
  CHECK_THROWS_WITH_AS(expand_task_counts("2(x3"), doctest::Contains("lacks its ')'"), Error);
  CHECK_THROWS_WITH_AS(expand_task_counts(""), doctest::Contains("'' is not a count"), Error);
  CHECK_THROWS_WITH_AS(expand_task_counts("2,"), doctest::Contains("is not a count"), Error);
  CHECK_THROWS_WITH_AS(expand_task_counts("0"), doctest::Contains("'0' is not a count"), Error);
  CHECK_THROWS_WITH_AS(expand_task_counts("2(x)"), doctest::Contains("'' is not a count"), Error);
  CHECK_THROWS_WITH_AS(expand_task_counts("2(x999999999)"), doctest::Contains("more than 262144"), Error);
}

// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "comm/collective_checks.h"

using namespace sluice;

TEST_CASE("a group of one keeps what it is given") {
  auto comm = make_solo_communicator();
  CHECK(comm->rank() == 0);
  CHECK(comm->size() == 1);
  CHECK(check_everything(*comm) == "");
}

TEST_CASE("a single process is the first and last stage") {
  const Groups groups = solo_groups();
  CHECK(groups.first_stage());
  CHECK(groups.last_stage());
  CHECK(groups.tp_size() == 1);
}

// SPDX-License-Identifier: Apache-2.0
#include "weights/staging_ring.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

namespace sluice {
namespace {
constexpr size_t kPage = StagingRing::kAlignment;
}

TEST_CASE("Places of the ring never overlap, and an empty ring is whole, whatever order they come back in") {
  std::mt19937 random(11);
  StagingRing ring(16 * kPage);
  std::map<size_t, size_t> places;  // end by begin
  int taken = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0 && !places.empty()) {
      auto place = places.begin();
      std::advance(place, random() % places.size());
      ring.give_back(place->first);
      places.erase(place);
    } else {
      const size_t bytes = random() % (6 * kPage);
      const bool room = ring.has_room(bytes);
      const auto at = ring.take(bytes);
      REQUIRE(at.has_value() == room);
      if (!at.has_value()) {
        ++refused;
        REQUIRE_FALSE(places.empty());
        continue;
      }
      ++taken;
      const size_t end = *at + StagingRing::rounded(bytes);
      REQUIRE(*at % kPage == 0);
      REQUIRE(end <= 16 * kPage);
      for (const auto& [begin, other] : places) REQUIRE((end <= begin || other <= *at));
      places[*at] = end;
    }
    if (places.empty()) {
      REQUIRE(ring.take(16 * kPage) == size_t{0});
      ring.give_back(0);
    }
  }
  CHECK(taken > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("The ring goes on at its begin while its end is still taken") {
  StagingRing ring(4 * kPage);
  const auto a = ring.take(kPage), b = ring.take(2 * kPage);
  REQUIRE(a == size_t{0});
  REQUIRE(b == kPage);
  CHECK_FALSE(ring.take(2 * kPage).has_value());
  ring.give_back(*a);
  const auto c = ring.take(kPage);
  CHECK(c == 3 * kPage);
  CHECK(ring.take(1) == size_t{0});
  CHECK_FALSE(ring.take(1).has_value());
}

}  // namespace sluice

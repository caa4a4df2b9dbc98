// SPDX-License-Identifier: Apache-2.0
#include "weights/staging_ring.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {

std::optional<size_t> StagingRing::place(size_t bytes) const {
  if (places_.empty()) return bytes <= size_ ? std::optional<size_t>(0) : std::nullopt;
  const size_t oldest = places_.front().begin, end = places_.back().end;
  if (places_.back().begin < oldest) return end + bytes <= oldest ? std::optional(end) : std::nullopt;
  if (end + bytes <= size_) return end;
  return bytes <= oldest ? std::optional<size_t>(0) : std::nullopt;
}

std::optional<size_t> StagingRing::take(size_t bytes) {
  const size_t length = rounded(bytes);
  const std::optional<size_t> at = place(length);
  if (at.has_value()) places_.push_back({*at, *at + length, true});
  return at;
}

void StagingRing::give_back(size_t offset) {
  const auto found = std::find_if(places_.begin(), places_.end(),
                                  [&](const Place& place) { return place.begin == offset && place.taken; });
  check(found != places_.end(), "a place of the ring is given back once");
  found->taken = false;
  while (!places_.empty() && !places_.front().taken) places_.pop_front();
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "launch/backends.h"

#include <algorithm>

namespace sluice {
namespace {
constexpr size_t kPrefixBytes = 512;

// FNV-1a, finished by a multiplication that spreads the high bits.
uint64_t hash(std::string_view text, uint64_t seed) {
  uint64_t h = 14695981039346656037ull ^ seed;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  h ^= h >> 32;
  return h * 0x9E3779B97F4A7C15ull;
}
}  // namespace

void Backends::update(const std::vector<std::string>& names, double now) {
  const std::lock_guard lock(mutex_);
  std::erase_if(backends_,
                [&](const BackendState& b) { return std::find(names.begin(), names.end(), b.name) == names.end(); });
  for (const std::string& name : names) {
    if (std::any_of(backends_.begin(), backends_.end(), [&](const BackendState& b) { return b.name == name; }))
      continue;
    BackendState fresh;
    fresh.tag = hash(name, 1);
    fresh.name = name;
    fresh.idle_since = now;
    backends_.push_back(std::move(fresh));
  }
}

void Backends::report(const std::string& name, bool healthy, int64_t load, double now) {
  const std::lock_guard lock(mutex_);
  for (BackendState& b : backends_) {
    if (b.name != name) continue;
    b.failures = healthy ? 0 : b.failures + 1;
    b.healthy = healthy;
    b.reported = load;
    if (load > 0 || b.in_flight > 0) b.idle_since = 0;
    if (load == 0 && b.in_flight == 0 && b.idle_since == 0) b.idle_since = now;
  }
}

std::optional<uint64_t> Backends::choose(std::string_view prefix, const std::vector<uint64_t>& excluded,
                                         int64_t slack) {
  const std::lock_guard lock(mutex_);
  const auto usable = [&](const BackendState& b) {
    return b.healthy && std::find(excluded.begin(), excluded.end(), b.tag) == excluded.end();
  };
  // What others send is known by the report alone, what we send sooner: the larger of the two is nearer the truth.
  const auto load = [](const BackendState& b) { return std::max(b.reported, b.in_flight); };
  int64_t least = INT64_MAX;
  for (const BackendState& b : backends_)
    if (usable(b)) least = std::min(least, load(b));
  BackendState* best = nullptr;
  for (BackendState& b : backends_) {
    if (!usable(b) || load(b) > least + (prefix.empty() ? 0 : slack)) continue;
    if (best == nullptr || hash(prefix, b.tag) > hash(prefix, best->tag)) best = &b;
  }
  if (best == nullptr) return std::nullopt;
  ++best->in_flight;
  best->idle_since = 0;
  return best->tag;
}

void Backends::ended(uint64_t tag, bool failed, double now) {
  const std::lock_guard lock(mutex_);
  for (BackendState& b : backends_) {
    if (b.tag != tag) continue;
    b.in_flight = std::max<int64_t>(0, b.in_flight - 1);
    if (b.in_flight == 0) b.idle_since = now;
    if (failed) {
      b.healthy = false;
      ++b.failures;
    }
  }
}

std::vector<BackendState> Backends::all() const {
  const std::lock_guard lock(mutex_);
  return backends_;
}

std::string Backends::name_of(uint64_t tag) const {
  const std::lock_guard lock(mutex_);
  for (const BackendState& b : backends_)
    if (b.tag == tag) return b.name;
  return {};
}

std::string_view prompt_prefix(std::string_view body) {
  for (const std::string_view key : {"\"messages\"", "\"prompt\"", "\"inputs\"", "\"text_input\""}) {
    const size_t at = body.find(key);
    if (at != body.npos) return body.substr(at, kPrefixBytes);
  }
  return body.substr(0, 0);
}

}  // namespace sluice

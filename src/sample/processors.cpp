// SPDX-License-Identifier: Apache-2.0
#include "sample/processors.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "sample/watermark.h"

namespace sluice {
namespace {

void mark(std::span<float> row, const SamplingParams& p, int32_t before) {
  const auto vocab = static_cast<int64_t>(row.size());
  const Watermark watermark(before, vocab);
  const auto green = static_cast<int64_t>(static_cast<double>(p.watermark_gamma) * static_cast<double>(vocab));
  for (int64_t i = 0; i < vocab; ++i)
    if (watermark.rank(i) < green) row[static_cast<size_t>(i)] += p.watermark_delta;
}

void never(std::span<float> row, int32_t id) {
  if (id >= 0 && static_cast<size_t>(id) < row.size()) row[static_cast<size_t>(id)] = kNeverScore;
}

void apply_penalties(std::span<float> row, const SamplingParams& p, const TokenHistory& history) {
  const std::span<const uint16_t> cells = history.cells();
  const size_t n = std::min(row.size(), cells.size());
  for (size_t i = 0; i < n; ++i) {
    if (cells[i] == 0) continue;
    float s = row[i];
    if (p.repetition_penalty != 1.0f) s = s < 0 ? s * p.repetition_penalty : s / p.repetition_penalty;
    if (const int count = cells[i] & TokenHistory::kCount) {
      s -= p.frequency_penalty * static_cast<float>(count) + p.presence_penalty;
    }
    row[i] = s;
  }
}

void ban_ngrams(std::span<float> row, size_t n, std::span<const int32_t> ids) {
  if (ids.size() + 1 < n) return;
  const std::span<const int32_t> tail = ids.last(n - 1);
  for (size_t i = 0; i + n <= ids.size(); ++i) {
    if (std::equal(tail.begin(), tail.end(), ids.begin() + static_cast<std::ptrdiff_t>(i))) never(row, ids[i + n - 1]);
  }
}

void ban_words(std::span<float> row, std::span<const int32_t> words, std::span<const int32_t> ids) {
  while (!words.empty()) {
    const auto length = static_cast<size_t>(words[0]);
    check(length > 0 && length < words.size(), "bad words are malformed");
    const std::span<const int32_t> start = words.subspan(1, length - 1);
    // As in transformers: several tokens that are more than all that came so far are not looked for.
    const bool fits = start.empty() || length <= ids.size();
    if (fits && std::ranges::equal(start, ids.last(start.size()))) never(row, words[length]);
    words = words.subspan(1 + length);
  }
}

void force(std::span<float> row, std::span<const ForcedToken> forced, int64_t position) {
  bool any = false;
  for (const ForcedToken& f : forced) any = any || f.position == position;
  if (!any) return;
  std::ranges::fill(row, kNeverScore);
  for (const ForcedToken& f : forced) {
    if (f.position == position && f.id >= 0 && static_cast<size_t>(f.id) < row.size())
      row[static_cast<size_t>(f.id)] = 0;
  }
}

// By squaring: the C library's pow differs between hosts.
double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2 != 0) result *= base;
  }
  return result;
}

void decay(std::span<float> row, const SamplingParams& p, int64_t distance) {
  const auto gain = static_cast<float>(power(static_cast<double>(p.decay_factor), distance) - 1.0);
  for (const int32_t id : p.decay_ids) {
    if (id < 0 || static_cast<size_t>(id) >= row.size()) continue;
    float& s = row[static_cast<size_t>(id)];
    if (s > kNeverScore) s += std::abs(s) * gain;
  }
}

void keep_only(std::span<float> row, std::span<const int32_t> sorted) {
  auto next = sorted.begin();
  for (size_t i = 0; i < row.size(); ++i) {
    while (next != sorted.end() && *next < static_cast<int32_t>(i)) ++next;
    if (next == sorted.end() || *next != static_cast<int32_t>(i)) row[i] = kNeverScore;
  }
}

}  // namespace

void apply_mask(std::span<float> row, std::span<const uint32_t> mask) {
  check(mask.size() * 32 >= row.size(), "a token mask is shorter than the vocabulary");
  for (size_t begin = 0; begin < row.size(); begin += 32) {
    const uint32_t word = mask[begin / 32];
    if (word == ~uint32_t{0}) continue;
    const size_t n = std::min<size_t>(32, row.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      if ((word >> i & 1) == 0) row[begin + i] = kNeverScore;
    }
  }
}

bool changes_scores(const SamplingParams& p, int64_t position) {
  return !p.logit_bias.empty() || p.needs_history() || (position < p.eos_from && !p.eos_ids.empty()) ||
         !p.forced.empty() || (position > p.decay_from && p.decay_factor != 1.0f) || !p.suppress.empty() ||
         (position == p.begin_position && !p.begin_suppress.empty()) || !p.allowed.empty();
}

void apply_processors(std::span<float> row, const SamplingParams& p, const TokenHistory* history, int64_t position) {
  if (p.watermark_gamma > 0 && history != nullptr && !history->ids().empty()) mark(row, p, history->ids().back());
  for (const LogitBias& bias : p.logit_bias) {
    if (bias.id >= 0 && static_cast<size_t>(bias.id) < row.size()) row[static_cast<size_t>(bias.id)] += bias.bias;
  }
  if (p.needs_history()) {
    check(history != nullptr, "a sequence whose parameters need a token history has none");
    if (p.has_penalty()) apply_penalties(row, p, *history);
    if (p.no_repeat_ngram > 0) ban_ngrams(row, static_cast<size_t>(p.no_repeat_ngram), history->ids());
    ban_words(row, p.bad_words, history->ids());
  }
  if (position < p.eos_from) {
    for (const int32_t id : p.eos_ids) never(row, id);
  }
  force(row, p.forced, position);
  if (position > p.decay_from && p.decay_factor != 1.0f) decay(row, p, position - p.decay_from);
  for (const int32_t id : p.suppress) never(row, id);
  if (position == p.begin_position) {
    for (const int32_t id : p.begin_suppress) never(row, id);
  }
  if (!p.allowed.empty()) keep_only(row, p.allowed);
}

}  // namespace sluice

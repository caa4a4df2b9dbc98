// SPDX-License-Identifier: Apache-2.0
// The green tokens of a watermark: the first share of a permutation of the vocabulary that the token before picks. It
// is this project's own permutation, a function of that token and the vocabulary's size alone, so that whoever has the
// token ids can find the mark. docs/compatibility.md gives it in a form that others can program.
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

class Watermark {
 public:
  static constexpr int64_t kMaxVocab = 1 << 20;
  Watermark(int32_t before, int64_t vocab);
  // Place of a token in the permutation, 0 to vocab - 1.
  int64_t rank(int64_t id) const {
    do {
      uint32_t low = static_cast<uint32_t>(id) % side_, high = static_cast<uint32_t>(id) / side_;
      low = wrap(low + added_[0][high]);
      high = wrap(high + added_[1][low]);
      low = wrap(low + added_[2][high]);
      high = wrap(high + added_[3][low]);
      id = int64_t{high} * side_ + low;
    } while (id >= vocab_);
    return id;
  }

  static std::array<uint32_t, 4> keys(int32_t before);  // of the four rounds
  static uint32_t side(int64_t vocab);                  // the smallest whose square holds the vocabulary
  static uint32_t round(uint32_t value, uint32_t key, uint32_t side);

 private:
  uint32_t wrap(uint32_t v) const { return v >= side_ ? v - side_ : v; }
  int64_t vocab_;
  uint32_t side_;
  std::array<std::array<uint16_t, 1024>, 4> added_;  // by round and the half that is read
};

}  // namespace sluice

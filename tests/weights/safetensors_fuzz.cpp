// SPDX-License-Identifier: Apache-2.0
// Mutated safetensors headers: each is refused with an Error, or describes ranges that fit the file exactly.
#include <doctest/doctest.h>

#include <random>

#include "base/error.h"
#include "weights/safetensors.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
// True when the bytes were accepted.
bool parse_once(const std::string& bytes) {
  SafetensorsHeader header;
  try {
    header = parse_safetensors(test::as_bytes(bytes), bytes.size(), "fuzz");
  } catch (const Error&) {
    return false;
  }
  uint64_t next = header.data_begin;
  for (const SafetensorsEntry& tensor : header.tensors) {
    REQUIRE(tensor.begin == next);
    REQUIRE(tensor.end >= tensor.begin);
    next = tensor.end;
  }
  REQUIRE(next == bytes.size());
  return true;
}
}  // namespace

TEST_CASE("A hundred thousand mutated headers are refused or consistent") {
  const std::string seeds[] = {
      test::safetensors_bytes({{"a", "F32", {2, 2}, std::string(16, 'x')},
                               {"b", "BF16", {3}, std::string(6, 'y')},
                               {"c", "I64", {}, std::string(8, 'z')}}),
      test::file_bytes(
          R"({"__metadata__":{"format":"pt","k":"v"},"e":{"dtype":"F4","shape":[0,9],"data_offsets":[0,0]}}   )", 0),
  };
  const std::string words[] = {"{",
                               "}",
                               "[",
                               "]",
                               ",",
                               ":",
                               "\"",
                               "\\u0000",
                               "0",
                               "-1",
                               "1e9",
                               "18446744073709551615",
                               "null",
                               "F8_E4M3",
                               "\"shape\":",
                               "\"dtype\":\"F64\"",
                               "__metadata__",
                               "\xc3\x28",
                               " "};
  std::mt19937_64 random(20240601);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  int accepted = 0;
  for (int round = 0; round < 100000; ++round) {
    std::string bytes = seeds[below(std::size(seeds))];
    for (size_t edits = 1 + below(4); edits > 0 && !bytes.empty(); --edits) {
      const size_t at = below(bytes.size());
      switch (below(5)) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + below(8));
          break;
        case 2:
          bytes.insert(at, words[below(std::size(words))]);
          break;
        case 3:
          bytes.insert(at, bytes.substr(below(bytes.size()), below(40)));
          break;
        default:
          bytes[below(std::min<size_t>(8, bytes.size()))] = static_cast<char>(random());
          break;
      }
    }
    // Mostly with the right length, so that the JSON is reached.
    if (bytes.size() > 8 && below(4) != 0) {
      const size_t closing = bytes.rfind('}');
      const size_t length = closing == std::string::npos || closing < 8 ? bytes.size() - 8 : closing - 7;
      for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
    }
    accepted += parse_once(bytes) ? 1 : 0;
  }
  CHECK(accepted > 1000);  // the mutations are not all trivially broken
}

}  // namespace sluice

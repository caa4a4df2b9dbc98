// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: names, types, shapes and byte ranges. Parses memory only, so that hostile bytes
// can be thrown at it. Every refusal is an Error that names the file, what was expected and what was found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/dtype.h"

namespace sluice {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;            // as the file writes it: "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;   // row-major; empty for a scalar
  uint64_t begin = 0, end = 0;  // bytes from the start of the file
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // in file order
  uint64_t data_begin = 0;                // 8 + length of the header
};

// Largest header that the format allows, bytes.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// `head` is the beginning of the file: 8 bytes of length, then the header, then anything. `file_bytes` is the size of
// the whole file and `file` its name in messages. Checks: length within file and limit; a JSON object in UTF-8; no
// duplicate names; known types; byte ranges that match type and shape, without overflow, gap or overlap, and that end
// with the file.
SafetensorsHeader parse_safetensors(std::span<const std::byte> head, uint64_t file_bytes, const std::string& file);

// Reads and parses the header of an open file.
SafetensorsHeader read_safetensors(const File& file);

// What the format calls a type: "BF16", ...
std::string_view safetensors_name(DType dtype);

}  // namespace sluice

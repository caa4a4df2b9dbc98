// SPDX-License-Identifier: Apache-2.0
// A restricted reader of pickles as torch.save writes them: it rebuilds plain values and descriptions of tensors and
// runs nothing. A global that is not on its list is refused by name. Parses memory only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sluice {

// A value by its place in Pickle::values; no value owns another, so that nesting costs no stack.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kSequence,
    kDict,
    kGlobal,
    kStorage,
    kTensor,
    kOpaque
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;                  // kBool, kInt; kTensor: offset in its storage, in elements
  double real = 0;                     // kFloat
  std::string text;                    // kText; kGlobal: "module name"; kStorage: its key
  std::string dtype;                   // kStorage, kTensor: as safetensors names it
  std::vector<uint32_t> items;         // kSequence; kDict: key, value, key, value, ...; kTensor: its storage
  std::vector<int64_t> shape, stride;  // kTensor; in elements
  int64_t elements = 0;                // kStorage
};

struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;
  size_t consumed = 0;  // bytes up to and with the STOP
  const PickleValue& at(uint32_t i) const { return values[i]; }
};

// Throws Error naming `origin` and what is wrong.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& origin);

struct PickledTensor {
  std::string name;   // keys of nested dicts joined with "."
  std::string dtype;  // as safetensors names it
  std::string storage;
  int64_t first = 0;  // of the storage, in elements
  std::vector<int64_t> shape, stride;
};

// All tensors of the root, a dict of tensors or of such dicts. Other values are passed over. Throws Error where the
// root is something else.
std::vector<PickledTensor> pickled_tensors(const Pickle& pickle, const std::string& origin);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: what is accepted lies within the file, without gap or overlap.
#include "weights/safetensors.h"

#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::accepts([&] {
    const SafetensorsHeader header =
        parse_safetensors({reinterpret_cast<const std::byte*>(data), size}, size, "fuzz.safetensors");
    uint64_t next = header.data_begin;
    for (const SafetensorsEntry& tensor : header.tensors) {
      fuzz::demand(tensor.begin == next && tensor.end >= tensor.begin, "tensors with a gap or an overlap");
      next = tensor.end;
    }
    fuzz::demand(next == size, "tensors that do not end with the file");
  });
  return 0;
}

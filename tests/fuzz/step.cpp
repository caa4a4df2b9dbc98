// SPDX-License-Identifier: Apache-2.0
// Steps as ranks receive them: bytes that are accepted are written again as they came.
#include "schedule/step.h"

#include <cstring>

#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::accepts([&] {
    Step step;
    deserialise({reinterpret_cast<const std::byte*>(data), size}, step);
    std::vector<std::byte> once, twice;
    serialise(step, once);
    Step again;
    deserialise(once, again);
    serialise(again, twice);
    fuzz::demand(once == twice, "a Step changes when read again");
  });
  return 0;
}

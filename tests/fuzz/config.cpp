// SPDX-License-Identifier: Apache-2.0
// config.json up to the sizes of the model: what is accepted has positive sizes.
#include "model/config.h"

#include "fuzz/fuzz.h"
#include "model/family.h"
#include "model/rope.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::accepts([&] {
    const Config config = Config::parse(fuzz::text_of(data, size), "config.json");
    config_dtype(config);
    read_quantisation(config);
    const RopeConfig rope = read_rope(config, 8, 10000.0);
    for (const int64_t length : {1, 100000})
      fuzz::demand(rope_table(rope, 3, length).size() == 24, "a table of another size");
    ModelInfo info;
    family_of(config).describe(config, info);
    fuzz::demand(info.n_layers > 0 && info.n_heads > 0 && info.n_kv_heads > 0 && info.head_dim > 0 && info.vocab > 0 &&
                     info.max_positions > 0 && info.parameters > 0,
                 "a model without size was accepted");
  });
  return 0;
}

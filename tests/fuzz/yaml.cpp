// SPDX-License-Identifier: Apache-2.0
// YAML as configuration dumps use it, and the config.ini of FasterTransformer folders.
#include "weights/yaml.h"

#include "fuzz/fuzz.h"
#include "weights/faster_transformer.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Folder folder;
  folder.write("config.ini", fuzz::text_of(data, size));
  fuzz::accepts([&] { fuzz::demand(!yaml_to_json(fuzz::text_of(data, size), "fuzz").empty(), "JSON of nothing"); });
  fuzz::accepts([&] { faster_transformer_config(folder.path()); });
  return 0;
}

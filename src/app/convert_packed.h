// SPDX-License-Identifier: Apache-2.0
// sluice convert --tp N --pp N: weights as the ranks of one layout hold them (weights/packed.h).
#pragma once

#include <filesystem>
#include <string>

#include "model/model.h"

namespace sluice {

struct PackOptions {
  int tp = 1, pp = 1;
  int threads = 0;
  bool gpus = false;  // whose ranks are on GPUs; packing needs none
  std::string name;   // of the model, as the user gave it
};

// Writes one file for each rank and packed.json; the folder gets its config afterwards. Returns the bytes written.
// Throws Error for a layout that the model does not have.
uint64_t convert_packed(const ModelSource& source, const std::filesystem::path& out, const PackOptions& options);

}  // namespace sluice

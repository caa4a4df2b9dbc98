// SPDX-License-Identifier: Apache-2.0
// FasterTransformer folders of GPT models: config.ini and a raw file per tensor and tensor-parallel rank.
#pragma once

#include <filesystem>
#include <string>

#include "weights/foreign.h"

namespace sluice {

// The folder with config.ini: `path` itself or its one N-gpu folder; empty where there is none.
std::filesystem::path faster_transformer_folder(const std::filesystem::path& path);
std::string faster_transformer_config(const std::filesystem::path& folder);
Checkpoint open_faster_transformer(const std::filesystem::path& folder, std::string base_prefix);

}  // namespace sluice

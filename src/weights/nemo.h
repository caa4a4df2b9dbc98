// SPDX-License-Identifier: Apache-2.0
// .nemo archives (foreign.h says what they are shown as).
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "weights/foreign.h"

namespace sluice {

std::string nemo_config(const std::filesystem::path& path);
Checkpoint open_nemo(const std::filesystem::path& path, std::string base_prefix);
// (name as Hugging Face has it, content): vocab.json and merges.txt, or tokenizer.model.
std::vector<std::pair<std::string, std::string>> nemo_tokenizer_files(const std::filesystem::path& path);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "weights/foreign.h"

#include "weights/faster_transformer.h"
#include "weights/nemo.h"

namespace sluice {
namespace fs = std::filesystem;

CheckpointBuilder::CheckpointBuilder(const fs::path& path, std::string base_prefix) {
  out_.folder_ = path;
  out_.base_prefix_ = std::move(base_prefix);
}

int CheckpointBuilder::add_file(File file) {
  out_.files_.push_back(std::move(file));
  return static_cast<int>(out_.files_.size()) - 1;
}

namespace {
bool is_nemo(const fs::path& path) { return path.extension() == ".nemo" && fs::is_regular_file(path); }
}  // namespace

bool is_foreign(const fs::path& path) {
  if (is_nemo(path)) return true;
  return fs::is_directory(path) && !fs::exists(path / "config.json") && !faster_transformer_folder(path).empty();
}

std::string foreign_config(const fs::path& path) {
  return is_nemo(path) ? nemo_config(path) : faster_transformer_config(faster_transformer_folder(path));
}

Checkpoint open_foreign(const fs::path& path, std::string base_prefix) {
  return is_nemo(path) ? open_nemo(path, std::move(base_prefix))
                       : open_faster_transformer(faster_transformer_folder(path), std::move(base_prefix));
}

}  // namespace sluice

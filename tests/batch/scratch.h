// SPDX-License-Identifier: Apache-2.0
// A folder of one test, removed with everything in it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/file.h"

struct Scratch {
  std::filesystem::path path;
  Scratch() {
    static std::atomic<int> count{0};
    path = std::filesystem::temp_directory_path() /
           ("sluice-batch-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path);
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    sluice::replace_file(path / name, content);
    return path / name;
  }
};

// SPDX-License-Identifier: Apache-2.0
// A folder of one test, removed with everything in it, and owners that claim in it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/file.h"
#include "batch/owner_file.h"

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

// A process of another host, as the Slurm job `job` where that is not empty.
inline sluice::Owner owner(const std::string& id, const std::string& job = "", int restart = 0) {
  sluice::Owner o;
  o.id = id;
  o.cluster = "c";
  o.job = o.task = job;
  o.restart = restart;
  o.host = "elsewhere";
  o.boot = "another boot";
  return o;
}

// SPDX-License-Identifier: Apache-2.0
// A folder of this test process, gone with its owner.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>

struct TestFolder {
  std::filesystem::path path;
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "sluice-cluster-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() { std::filesystem::remove_all(path); }
};

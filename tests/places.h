// SPDX-License-Identifier: Apache-2.0
// Where tests find the files beside them. Defined in main.cpp, so that no other object depends on where the tree lies.
#pragma once

#include <filesystem>

namespace sluice::test {

// The root of the source tree, and of the build tree.
std::filesystem::path source_dir();
std::filesystem::path build_dir();

}  // namespace sluice::test

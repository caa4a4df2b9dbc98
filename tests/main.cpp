// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "places.h"

namespace sluice::test {

std::filesystem::path source_dir() { return SLUICE_SOURCE_DIR; }
std::filesystem::path build_dir() { return SLUICE_BUILD_DIR; }

}  // namespace sluice::test

// SPDX-License-Identifier: Apache-2.0
// The web page, whole: page.html with style and scripts set in, made by cmake/embed_page.cmake.
#pragma once

#include <string_view>

namespace sluice {

std::string_view web_page();

}  // namespace sluice

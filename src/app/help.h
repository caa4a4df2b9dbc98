// SPDX-License-Identifier: Apache-2.0
// How --help looks: descriptions broken to the terminal's width, plain words for what an option takes.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace sluice {

// Of the program; verbs that are added later look the same.
void set_help(CLI::App& app);
// What is wrong with a command line, in a line or two: the nearest verb or option to a word that is none.
std::string usage_error(const CLI::App& app, const std::vector<std::string>& words, const std::string& found);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// How --help looks: descriptions broken to the terminal's width, plain words for what an option takes.
#pragma once

namespace CLI {
class App;
}

namespace sluice {

// Of the program; verbs that are added later look the same.
void set_help(CLI::App& app);

}  // namespace sluice

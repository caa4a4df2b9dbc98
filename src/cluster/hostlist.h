// SPDX-License-Identifier: Apache-2.0
// Slurm's compressed lists, expanded in-process because scontrol is often absent (containers, minimal nodes).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// "node[008-010,12],gpu07,a[1-2]b[3-4]-int" -> one name per host, in Slurm's order: several brackets expand as a
// product, the last fastest; numbers are padded to the width of the low end; a suffix may follow a bracket; comma,
// space, tab and newline separate. Throws Error naming the list and the place: nesting, missing bracket, no digits, low
// > high, more than 262144 names, a name of more than 255 characters.
std::vector<std::string> expand_hostlist(std::string_view list);

// "2(x3),1" -> {2, 2, 2, 1}. With hosts >= 0 the length must equal it. Throws Error.
std::vector<int> expand_task_counts(std::string_view list, int hosts = -1);

}  // namespace sluice

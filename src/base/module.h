// SPDX-License-Identifier: Apache-2.0
// Run-time modules: shared libraries beside the executable that alone know MPI, CUDA or NCCL.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sluice {

// Where `file` ("sluice_cuda.so") may be: where the environment variable says, else beside the executable or in the
// release's lib/sluice.
std::vector<std::filesystem::path> module_paths(const char* file, const char* variable);

// Opens the first that exists; null where none does. Throws Error with the loader's reason. `global`: its symbols serve
// what it loads later.
void* open_module(const std::vector<std::filesystem::path>& paths, bool global, std::filesystem::path& found);

}  // namespace sluice

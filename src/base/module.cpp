// SPDX-License-Identifier: Apache-2.0
#include "base/module.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

#include "base/error.h"

namespace sluice {

std::vector<std::filesystem::path> module_paths(const char* file, const char* variable) {
  if (const char* named = std::getenv(variable); named != nullptr && *named != '\0') return {named};
  std::error_code ignored;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  return {folder / file, folder.parent_path() / "lib" / "sluice" / file};
}

void* open_module(const std::vector<std::filesystem::path>& paths, bool global, std::filesystem::path& found) {
  for (const auto& path : paths) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) continue;
    found = path;
    void* module = ::dlopen(path.c_str(), RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (module == nullptr) throw Error(fmt::format("cannot load {}: {}", path.string(), ::dlerror()));
    return module;
  }
  return nullptr;
}

}  // namespace sluice

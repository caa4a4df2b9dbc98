// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/module.h"
#include "comm/nccl.h"

namespace sluice {
namespace {

const NcclModule& load() {
  const auto paths = module_paths("sluice_cuda.so", "SLUICE_CUDA_MODULE");
  std::filesystem::path path;
  void* module = open_module(paths, false, path);
  if (module == nullptr)
    throw Error(fmt::format("ranks on GPUs need the CUDA module, and {} does not exist", paths.front().string()));
  const auto entry = reinterpret_cast<NcclModuleEntry>(::dlsym(module, "sluice_nccl_module"));
  const NcclModule* found = entry == nullptr ? nullptr : entry(kNcclModuleVersion);
  if (found == nullptr)
    throw Error(fmt::format("{} is not the CUDA module of this build; build both together", path.string()));
  return *found;
}

}  // namespace

const NcclModule& nccl_module() {
  static const NcclModule& module = load();
  return module;
}

}  // namespace sluice

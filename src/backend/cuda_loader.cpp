// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <fmt/format.h>

#include "backend/cuda.h"
#include "base/error.h"
#include "base/module.h"

namespace sluice {
namespace {

const CudaModule& load() {
  const auto paths = module_paths("sluice_cuda.so", "SLUICE_CUDA_MODULE");
  std::filesystem::path path;
  void* module = nullptr;
  try {
    module = open_module(paths, false, path);
  } catch (const Error& error) {
    throw Error(
        fmt::format("{}; load the CUDA that it was built with (module load cuda ...), or build it again with "
                    "the one that is there",
                    error.what()));
  }
  if (module == nullptr)
    throw Error(
        fmt::format("this build has no CUDA module: {} does not exist; build with the preset cuda, or set "
                    "SLUICE_CUDA_MODULE",
                    paths.front().string()));
  const auto entry = reinterpret_cast<CudaModuleEntry>(::dlsym(module, "sluice_cuda_module"));
  const CudaModule* found = entry == nullptr ? nullptr : entry(kCudaModuleVersion);
  if (found == nullptr)
    throw Error(fmt::format("{} is not the CUDA module of this build; build both together", path.string()));
  return *found;
}

}  // namespace

const CudaModule& cuda_module() {
  static const CudaModule& module = load();
  return module;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "comm/nccl/library.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

namespace sluice::nccl {
namespace {

template <class F>
void find(void* library, const char* path, const char* name, F& to) {
  to = reinterpret_cast<F>(::dlsym(library, name));
  if (to == nullptr) throw Error(fmt::format("{} lacks {}; expected NCCL 2.18 or newer", path, name));
}

Library open() {
  const char* named = std::getenv("SLUICE_NCCL_LIBRARY");
  const char* path = named != nullptr && *named != '\0' ? named : "libnccl.so.2";
  void* found = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (found == nullptr)
    throw Error(
        fmt::format("several ranks on GPUs need NCCL, and {} cannot be loaded: {}; load its module (module load "
                    "nccl ...), add its folder to LD_LIBRARY_PATH, or set SLUICE_NCCL_LIBRARY",
                    path, ::dlerror()));
  Library l{};
  find(found, path, "ncclGetVersion", l.get_version);
  find(found, path, "ncclGetUniqueId", l.get_unique_id);
  find(found, path, "ncclCommInitRank", l.comm_init_rank);
  find(found, path, "ncclCommDestroy", l.comm_destroy);
  find(found, path, "ncclCommGetAsyncError", l.comm_get_async_error);
  find(found, path, "ncclGetErrorString", l.get_error_string);
  find(found, path, "ncclGetLastError", l.get_last_error);
  find(found, path, "ncclAllReduce", l.all_reduce);
  find(found, path, "ncclAllGather", l.all_gather);
  find(found, path, "ncclBroadcast", l.broadcast);
  find(found, path, "ncclSend", l.send);
  find(found, path, "ncclRecv", l.recv);
  return l;
}

}  // namespace

const Library& library() {
  static const Library opened = open();
  return opened;
}

std::string device_name() {
  int device = -1;
  cudaGetDevice(&device);
  return fmt::format("device {}", device);
}

void fail(ncclResult_t result, const char* call, const std::string& group, CodePlace where) {
  fatal(fmt::format("NCCL: {} over {} failed: {} ({}) on {}", call, group, library().get_error_string(result),
                    library().get_last_error(nullptr), device_name()),
        where);
}

void fail(int cuda_error, const char* what, const std::string& group, CodePlace where) {
  fatal(fmt::format("CUDA: {} for {} failed: {} on {}", what, group,
                    cudaGetErrorString(static_cast<cudaError_t>(cuda_error)), device_name()),
        where);
}

}  // namespace sluice::nccl

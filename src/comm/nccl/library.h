// SPDX-License-Identifier: Apache-2.0
// The functions of NCCL that are used, found at run time: one rank needs no NCCL, and the machine's own is taken.
#pragma once

#include <nccl.h>

#include <string>

#include "base/error.h"

namespace sluice::nccl {

struct Library {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) comm_init_rank;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
};

// libnccl.so.2 as the loader finds it, or what SLUICE_NCCL_LIBRARY names; opened once. Throws Error.
const Library& library();

[[noreturn]] void fail(ncclResult_t result, const char* call, const std::string& group, CodePlace where);
// "device 0" of the calling thread, for messages.
std::string device_name();
[[noreturn]] void fail(int cuda_error, const char* what, const std::string& group, CodePlace where);

}  // namespace sluice::nccl

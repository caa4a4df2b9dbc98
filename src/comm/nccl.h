// SPDX-License-Identifier: Apache-2.0
// Communicators over device memory. The code is in the run-time module sluice_cuda.so, which opens NCCL when several
// ranks need it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace sluice {

// This rank's place in a group. Equal `id` on all its ranks, made by unique_id() on the one with rank 0, because the id
// carries the address where the others meet it.
struct NcclMember {
  std::string id;
  int rank = 0, size = 1;
  std::string name;  // "tp ranks 0, 1", for messages
};

class NcclModule {
 public:
  virtual ~NcclModule() = default;
  virtual std::string library() const = 0;  // "NCCL 2.27.3"; throws Error when it cannot be opened
  virtual std::string unique_id() const = 0;
  // Collectives are queued on `stream`, a cudaStream_t of the calling thread's device. All ranks of the group call it
  // at once. `fixed_order`: an element's sum depends neither on the message nor on the ring that NCCL picks. Throws
  // Error.
  virtual std::unique_ptr<Communicator> make(const NcclMember& member, void* stream, bool fixed_order) const = 0;
  virtual std::unique_ptr<TokenReturn> make_return(const NcclMember& member, void* stream) const = 0;
  // An all-reduce of 1 MiB over the group; GB/s of the message, or below 0 when it has not ended after `seconds`.
  virtual double self_test(Communicator& group, double seconds) const = 0;
};

// Throws Error as cuda_module() of backend/cuda.h does: it is the same module.
const NcclModule& nccl_module();

constexpr uint32_t kNcclModuleVersion = 1;
using NcclModuleEntry = const NcclModule* (*)(uint32_t version);  // the symbol sluice_nccl_module

}  // namespace sluice

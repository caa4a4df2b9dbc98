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
  std::string name;      // "tp ranks 0, 1", for messages
  double seconds = 120;  // for all ranks to come; the process ends where one does not
};

enum class PeerUse { kNever, kAuto, kRequire };

struct NcclOptions {
  bool fixed_order = false;         // an element's sum depends neither on the message nor on the ring that NCCL picks
  PeerUse peers = PeerUse::kNever;  // sums through memory that ranks of one host open, see comm/nccl/peer_sums.h
};

// What a group's self-test found.
struct NcclTest {
  double gbps = 0;            // 1 MiB summed by NCCL
  double peer_us = 0;         // 8 KiB summed between peers; 0: NCCL does all
  std::string without_peers;  // why NCCL does all, where peers were wanted
};

class NcclModule {
 public:
  virtual ~NcclModule() = default;
  virtual std::string library() const = 0;  // "NCCL 2.27.3"; throws Error when it cannot be opened
  virtual std::string unique_id() const = 0;
  // A group looks for errors of NCCL while it lives, because a collective that met one does not end: fatal().
  // Collectives are queued on `stream`, a cudaStream_t of the calling thread's device. All ranks of the group call it
  // at once. Throws Error, also where peers are required and cannot be.
  virtual std::unique_ptr<Communicator> make(const NcclMember& member, void* stream,
                                             const NcclOptions& options) const = 0;
  virtual std::unique_ptr<TokenReturn> make_return(const NcclMember& member, void* stream) const = 0;
  // Sums over the group. Peers whose sum is wrong are not used again. fatal() where one has not ended after `seconds`:
  // the device waits for it, and whatever waits for the device would never return.
  virtual NcclTest self_test(Communicator& group, double seconds) const = 0;
};

// Throws Error as cuda_module() of backend/cuda.h does: it is the same module.
const NcclModule& nccl_module();

constexpr uint32_t kNcclModuleVersion = 3;
using NcclModuleEntry = const NcclModule* (*)(uint32_t version);  // the symbol sluice_nccl_module

}  // namespace sluice

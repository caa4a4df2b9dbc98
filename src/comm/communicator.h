// SPDX-License-Identifier: Apache-2.0
// Collectives over one group of ranks. Calls are made by one thread of each rank, in the same order on every rank.
// A failure of the transport is fatal(): no rank may go on alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace sluice {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Sum over ranks in rank order, so that the result of an element depends neither on the message size nor on the other
  // elements; the same bits on every rank. f32, in place, contiguous.
  virtual void all_reduce(const Tensor& inout) = 0;
  // out is [size, ...in.shape] flattened: rank r's `in` lands at element r * in.elements(). Contiguous, any dtype.
  virtual void all_gather(const Tensor& out, const Tensor& in) = 0;
  virtual void broadcast(const Tensor& inout, int root) = 0;
  // Point to point, matched by order. send() may return before the peer has received; `data` may then be reused.
  virtual void send(const Tensor& data, int to) = 0;
  virtual void recv(const Tensor& data, int from) = 0;
};

// A group of one: every call is a copy or nothing.
std::unique_ptr<Communicator> make_solo_communicator();

// What goes from the last stage of a pipeline back to the first beside all other traffic: one message per step, in
// order. For transports whose send waits for its receiver, which would close a circle of waiting stages.
class TokenReturn {
 public:
  virtual ~TokenReturn() = default;
  virtual void send(const Tensor& device) = 0;  // last stage; later ops may overwrite `device`
  // First stage, as soon as a step is queued, so that no send waits for what the host does later: its message may come.
  virtual void expect(size_t bytes) = 0;
  virtual void receive(void* host, size_t bytes) = 0;  // first stage; waits for the oldest that is expected
};

// The groups that this rank belongs to. world = pp x tp; tp ranks share a stage, pp ranks share a tp index.
struct Groups {
  // tp and pp move memory of the rank's backend, world moves host memory.
  std::unique_ptr<Communicator> world, tp, pp;
  std::unique_ptr<TokenReturn> back{};  // of pp; none where pp itself does it with host memory
  int tp_rank() const { return tp->rank(); }
  int tp_size() const { return tp->size(); }
  int stage() const { return pp->rank(); }
  int stages() const { return pp->size(); }
  bool first_stage() const { return stage() == 0; }
  bool last_stage() const { return stage() + 1 == stages(); }
};

Groups solo_groups();

// Host-memory groups over MPI, from the run-time module beside the binary. Initialises MPI on the calling thread, which
// makes every later call. `tp_ranks` and `pp_ranks` list the world ranks of this rank's groups in group order.
// Throws Error when the module is missing, or when MPI's rank or size differs from what is expected, with the launch
// line that works.
Groups mpi_groups(int expected_rank, int expected_size, std::span<const int> tp_ranks, std::span<const int> pp_ranks);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// How the ranks of a run find each other and stay in step: one TCP connection from every rank to rank 0, one I/O thread
// per process. Steps travel from rank 0 to all; heartbeats, aborts and small exchanges travel both ways. Formed before
// MPI or NCCL is touched, so that a missing rank is named instead of waited for.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/launch.h"
#include "control/hello.h"
#include "control/socket.h"

namespace sluice {

struct ControlOptions {
  std::filesystem::path home;     // $SLUICE_HOME: the user's secret and rank 0's announcement
  std::string rendezvous;         // "HOST:PORT" of rank 0; empty: found by port rule and announcement
  double formation_seconds = 60;  // until all ranks have come
  double heartbeat_seconds = 1;   // between signs of life
  double silence_seconds = 5;     // a peer unheard for so long is lost
  double exit_seconds = 5;        // after on_lost began, the process is ended with _exit(kExitLost); 0: never
  static constexpr int kExitLost = 3;
  // Called once, on the I/O thread, when a rank is lost or has aborted; the other ranks have been told. Expected to
  // mark the endpoint record and end the process. `reason` names rank, host and pid.
  std::function<void(const std::string& reason)> on_lost;
};

class ControlPlane {
 public:
  // Blocks until all `launch.world` ranks have met. Throws Error naming what is wrong on every rank that could be
  // reached: missing ranks and the hosts they should be on, a rank twice, different world sizes, two builds mixed,
  // another secret. A world of one touches neither network nor files.
  static std::unique_ptr<ControlPlane> form(const ControlOptions& options, const Launch& launch, const Hello& mine);

  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;
  ~ControlPlane();  // joins the I/O thread. Without leave(), the others see this rank as lost

  int rank() const;
  int size() const;
  const std::vector<Hello>& hellos() const;  // by rank, the same on every rank

  // Rank 0: hands one message to the I/O thread and returns. Copies `message`; allocates nothing once buffers have
  // grown. Blocks only while kBacklog messages wait for the slowest rank.
  void broadcast(std::span<const std::byte> message);
  static constexpr int kBacklog = 64;
  // Other ranks: the next message, in order; swaps buffers with `message`, so that a reused vector allocates nothing.
  // Sleeps while there is none. False after rank 0 has left or the run was lost.
  bool next(std::vector<std::byte>& message);

  // Everyone's `mine`, by rank. Called by one thread of every rank in the same order, at most 1 MiB each; `what` names
  // it in errors. Throws Error naming the ranks that have not come after `seconds`, on every rank.
  std::vector<std::string> all_gather(std::string_view what, std::string_view mine, double seconds);
  void barrier(std::string_view what, double seconds);

  // Connections between every two ranks, authenticated as those to rank 0 are, by rank; this rank's own is empty.
  // Called by every rank at once. Throws Error, on every rank, naming who does not reach whom within `seconds`.
  std::vector<Socket> connect_peers(double seconds);

  // Tells every rank why this one ends, then returns within about a second; the run is lost from then on. Safe from a
  // fatal hook and from any thread. Does not call this rank's own on_lost.
  void abort(std::string_view reason) noexcept;

  // Clean end: nothing that happens to the connections afterwards is a loss. Waits until what was sent is out and, on
  // rank 0, the others have left too, at most `seconds`.
  void leave(double seconds = 5);

  bool lost() const;           // a rank was lost or has aborted
  std::string reason() const;  // empty unless lost()

 private:
  ControlPlane();
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice

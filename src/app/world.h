// SPDX-License-Identifier: Apache-2.0
// The ranks of one run, formed: who this process is, its groups, its backend, and the way to its executor.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/device.h"
#include "app/served_model.h"
#include "cluster/devices.h"
#include "cluster/launch.h"
#include "cluster/placement.h"
#include "control/control.h"
#include "engine/engine.h"

namespace sluice {

// Seconds of this rank, for log and metrics.
struct LoadTimes {
  double load = 0;  // reading and packing the weights
  double warm = 0;  // first use of the device and recording; 0 on CPUs
};

class World {
 public:
  // Reads the launch and meets the other ranks. Throws Error naming who is missing.
  // `on_lost` runs on the control thread when a rank is lost, before this process leaves with exit code 1.
  World(const Settings& settings, const ServedModel& model, std::function<void(const std::string& reason)> on_lost);
  ~World();

  bool leader() const { return launch_.rank == 0; }
  const Launch& launch() const { return launch_; }
  const Layout& layout() const { return layout_; }
  const std::vector<RankPlace>& places() const { return places_; }
  bool on_gpu() const { return device_.cuda; }
  const LoadTimes& times() const { return times_; }            // likewise
  const std::string& backend() const { return backend_; }      // known once the executor is made
  const std::string& transport() const { return transport_; }  // of sums: "none", "mpi", "tcp", "nccl"; likewise

  // Loads this rank's share. Called on the thread that will run the steps, because that thread drives MPI; the executor
  // is destroyed on that thread too. Throws Error.
  std::unique_ptr<Executor> make_executor();
  // Sends steps to the other ranks; empty for a single one.
  std::function<void(std::span<const std::byte>)> broadcast();
  // Ranks other than 0: replays steps until the leader leaves. Returns the exit code.
  int work();
  // What rank 0 says, on every rank; called by all. `what` names it in errors.
  bool leader_says(const char* what, bool mine);
  // Waits until every rank has loaded. Throws Error naming the others.
  void all_loaded();
  // A clean end: the other ranks see a goodbye and not a loss.
  void leave();
  // Any other end: tells the other ranks why.
  void abort(const std::string& reason) noexcept;

 private:
  const Settings& settings_;
  const ServedModel& model_;
  Launch launch_;
  Layout layout_;
  std::vector<RankPlace> places_;
  RankGroups mine_;
  RankDevice device_;
  LoadTimes times_;
  int local_ranks_ = 1;
  std::unique_ptr<ControlPlane> control_;
  std::string backend_ = "none", transport_ = "none";
};

// Runs `body`; when it throws, the other ranks are told why before the exception goes on.
int with_world(World& world, const std::function<int()>& body);

}  // namespace sluice

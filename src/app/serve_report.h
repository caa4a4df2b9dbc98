// SPDX-License-Identifier: Apache-2.0
// What the log of a serve job says first: one JSON line for programs, then a block for people.
#pragma once

#include <optional>
#include <string>

#include "app/world.h"
#include "cluster/endpoint.h"

namespace sluice {

struct ServeReport {
  const Settings& settings;
  const ServedModel& model;
  const World& world;
  const Endpoint& endpoint;
  const ExecutorInfo& executor;
  std::optional<double> seconds_left;  // of the job's time limit
  std::string seconds_left_origin;
  double load_seconds = 0;
};

std::string start_line(const ServeReport& report);  // JSON, one line
// Tunnel and curl; names the key's file, never the key. `login`: host to tunnel through, empty: none needed.
std::string human_block(const Endpoint& endpoint, std::optional<double> seconds_left, const std::string& login);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// A child ssh that forwards a local port to a server's node, and the choice between it and the straight way.
#pragma once

#include <memory>
#include <string>

#include "client/http_client.h"
#include "launch/jobs.h"

namespace sluice {

class Tunnel {
 public:
  // ssh -N -L 127.0.0.1:FREE:TARGET HOP; waits until the local end accepts. Throws Error with ssh's reason.
  Tunnel(const std::string& hop, const std::string& target_host, int target_port);
  ~Tunnel();
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;
  bool alive();
  Url url() const;  // of the local end

 private:
  int pid_ = -1, port_ = 0;
};

// The way to a job's server: straight to its node where this host may dial it, else through a tunnel that is kept.
class Way {
 public:
  explicit Way(std::string via) : via_(std::move(via)) {}  // a host to tunnel through, or empty
  Url to(const JobView& job);                              // throws Error
  void forget(const JobView& job);                         // the tunnel, when it has ended or the job has moved

 private:
  bool reaches(const Url& url);  // asked once per address
  const std::string via_;
  std::unique_ptr<Tunnel> tunnel_;
  std::string tunnel_for_, asked_;
  bool direct_ = false;
};

}  // namespace sluice

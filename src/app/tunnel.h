// SPDX-License-Identifier: Apache-2.0
// A child ssh that forwards a local port to a server's node.
#pragma once

#include <string>

#include "client/http_client.h"

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

}  // namespace sluice

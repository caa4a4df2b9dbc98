// SPDX-License-Identifier: Apache-2.0
// Fetches files of one repository in pieces over several connections, resuming what is there, and verifies each while
// it arrives. Memory is a buffer per connection, whatever the sizes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hub/repo.h"

namespace sluice {

struct FetchOptions {
  int connections = 8;
  uint64_t piece = uint64_t{16} << 20;          // bytes
  uint64_t shortest_piece = uint64_t{2} << 20;  // bytes; of a file's first and last pieces
  int attempts = 8;                             // of one piece without a byte in between
};

struct FetchProgress {
  uint64_t total = 0, done = 0;  // bytes of all files, those found included
  uint64_t fetched = 0;          // bytes received by this process
  int64_t files = 0, finished = 0;
};

// Blobs end in paths.root/blobs, whole and verified. `tick` is called several times a second; false stops with Error.
// Throws Error; what has arrived stays for the next time.
void fetch_blobs(Transfers& transfers, const HubSettings& hub, const std::string& repo, const std::string& commit,
                 const RepoCache& paths, const std::vector<RepoFile>& files, const FetchOptions& options,
                 const std::function<bool(const FetchProgress&)>& tick);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// `sluice download` and `sluice verify`: a model of the hub as a folder of the cache, whole, pinned to a commit and
// checked byte by byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/fetch.h"

namespace sluice {

struct DownloadRequest {
  std::string repo;                           // ORG/NAME
  std::string revision;                       // branch, tag or commit
  std::vector<std::string> include, exclude;  // shell patterns over paths
  FetchOptions fetch;
};

struct Downloaded {
  std::filesystem::path folder;  // CACHE/models--ORG--NAME/snapshots/COMMIT
  std::string commit;
  int64_t files = 0;
  uint64_t bytes = 0;    // of the model
  uint64_t fetched = 0;  // received now
};

// `tick` as fetch_blobs'. Throws Error; run again it goes on.
Downloaded download_model(const HubSettings& hub, const DownloadRequest& request,
                          const std::function<bool(const FetchProgress&)>& tick);

struct Damage {
  std::string path;  // in the snapshot
  std::string what;  // "missing", "37 bytes, expected 40", "digest ..., expected ..."
};

// Compares a downloaded snapshot with the digests that its blobs and its manifest name. Throws Error when it is not
// here, or is a plain folder, for which no digests are known.
std::vector<Damage> verify_model(const HubSettings& hub, const std::string& repo, const std::string& revision,
                                 const std::function<void(const std::string& path)>& reading);
// Takes away what is damaged, so that the next download fetches it anew.
void drop_damaged(const HubSettings& hub, const std::string& repo, const std::string& revision,
                  const std::vector<Damage>& damage);

}  // namespace sluice

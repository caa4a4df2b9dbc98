// SPDX-License-Identifier: Apache-2.0
// Asks the hub what a repository holds at one commit.
#pragma once

#include <string>
#include <vector>

#include "hub/answers.h"

namespace sluice {

struct RepoListing {
  std::string commit;
  std::vector<RepoFile> files;
};

// GET with the token where the origin is the hub's, redirects followed, refusals that pass by themselves retried with
// the server's own delay. Throws Error in the hub's and our words.
Answer hub_get(Transfers& transfers, const HubSettings& hub, const std::string& url, const std::string& what);

// Resolves the revision once; everything else is asked for at that commit. Throws Error.
RepoListing list_repo(Transfers& transfers, const HubSettings& hub, const std::string& repo,
                      const std::string& revision);
std::string file_url(const HubSettings& hub, const std::string& repo, const std::string& commit,
                     const std::string& path);

}  // namespace sluice

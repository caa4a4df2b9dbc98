// SPDX-License-Identifier: Apache-2.0
// One process at a time fetches a repository into a cache; others wait for it. flock is silently without effect on some
// Lustre and NFS mounts, so the owner is a file made with O_EXCL and touched while its process lives. Clocks of
// different hosts are never compared: whoever waits watches whether the file's time changes.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace sluice {

class RepoOwner {
 public:
  // Waits while another process owns `folder`; takes over from one that is dead (same host) or has not touched its file
  // for `stale_seconds`. `waiting` is told who it is, once; `stop` ends the wait with Error. Throws Error.
  RepoOwner(const std::filesystem::path& folder, double stale_seconds,
            const std::function<void(const std::string&)>& waiting, const std::function<bool()>& stop);
  ~RepoOwner();
  RepoOwner(const RepoOwner&) = delete;
  RepoOwner& operator=(const RepoOwner&) = delete;

  void touch();  // at least every stale_seconds / 4
  bool waited() const { return waited_; }

 private:
  std::filesystem::path path_;
  std::string content_;
  bool waited_ = false;
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// The public face of one run: a JSON record, its key and the user's secret under $SLUICE_HOME. All private (0700,
// 0600), all replaced by rename, one file per run, so that a reader on another node sees the old or the new whole. A
// record is a hint: /health confirms it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/launch.h"

namespace sluice {

enum class EndpointState { kLoading, kReady, kDraining, kStopped };
const char* endpoint_state_name(EndpointState state);  // "loading", "ready", "draining", "stopped"

struct Endpoint {
  std::string id;  // record_id(): file name without ".json"
  EndpointState state = EndpointState::kLoading;
  std::string url;  // "http://n1:10148"
  std::string host;
  int port = 0;
  bool loopback = false;  // it listens to its own host alone
  std::string job_id;     // empty outside Slurm
  std::string task;       // "148_3" of a task of an array, whose job id is another
  std::string model;
  std::string key_file;  // empty with AUTH=none
  std::string log;       // file of the job's output, empty when unknown
  std::string service;   // name under which its successors go on, empty without one
  int64_t pid = 0;
  double start_time = 0;  // seconds since 1970
  double end_time = 0;    // end of the job's time limit; 0 when unknown or unlimited
  int restart_count = 0;
  std::string reason;  // why draining or stopped: "TERM", "rank 3 on n2 was lost", ...
};

// $SLUICE_HOME, else $HOME/.sluice. Throws Error when neither is set.
std::filesystem::path sluice_home(const Environment& environment);

std::filesystem::path endpoint_path(const std::filesystem::path& home, std::string_view id);  // home/jobs/<id>.json
std::filesystem::path key_path(const std::filesystem::path& home, std::string_view id);       // home/keys/<id>.key

// Makes the folders as needed. Throws Error.
void write_endpoint(const std::filesystem::path& home, const Endpoint& endpoint);
// nullopt when there is none; retries a stale NFS handle; throws Error when it is another user's, open to others or not
// a record.
std::optional<Endpoint> read_endpoint(const std::filesystem::path& home, std::string_view id);
// Every readable record, newest start first.
std::vector<Endpoint> list_endpoints(const std::filesystem::path& home);

// Key of a run: 64 hex digits from getrandom, 0600. keep: an existing key stays (a requeued job keeps its clients).
// Returns its path.
std::filesystem::path make_key(const std::filesystem::path& home, std::string_view id, bool keep);
// Reads a key or secret; throws Error when the file is not private to this user or not 64 hex digits.
std::string read_key(const std::filesystem::path& path);

// The user's secret, shared by all ranks and runs of this user: home/secret, made once by whichever rank is first
// (link(2), safe on NFS).
std::string user_secret(const std::filesystem::path& home);

}  // namespace sluice

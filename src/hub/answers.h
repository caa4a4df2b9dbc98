// SPDX-License-Identifier: Apache-2.0
// What the hub answers, read without asking it: commits, listings, pages, refusals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hub/cache.h"
#include "hub/transfer.h"

namespace sluice {

struct RepoFile {
  std::string path;    // relative, checked: no "..", no empty part
  uint64_t size = 0;   // bytes
  std::string digest;  // sha256 of large files, git's blob sha1 of others: the name of the blob
};

// Branch, tag or commit: letters, digits, "-_./", no "..". Throws Error.
void check_revision(const std::string& revision);

// Empty where there is none.
std::string header(const GetResult& result, const char* name);
// The address in Link: <URL>; rel="next", or nothing.
std::string next_page(const GetResult& result);

// Seconds that an answer asks to wait (Retry-After, ratelimit), else 2^attempt up to 30.
double retry_delay(const GetResult& result, int attempt);
// 408, 429, 5xx and transport errors pass; refusals do not.
bool worth_retrying(const GetResult& result);
// One line: what failed, what the hub said, what to do.
std::string explain_refusal(const GetResult& result, const HubSettings& hub, const std::string& what);

// From the hub's answers: the commit of /api/models/REPO/revision/REVISION, and the files of one page of
// .../tree/COMMIT. `what` begins the message of the Error that a malformed one is.
std::string read_commit(const std::string& body, const std::string& what);
void read_listing(const std::string& body, const std::string& what, std::vector<RepoFile>& files);

// The files that serving needs: weights in one format (safetensors before .bin before .nemo), configuration, tokenizer,
// template. `include` and `exclude` are shell patterns over paths; `include` given, only what matches one of them.
std::vector<RepoFile> choose_files(const std::vector<RepoFile>& files, const std::vector<std::string>& include,
                                   const std::vector<std::string>& exclude);

}  // namespace sluice

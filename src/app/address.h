// SPDX-License-Identifier: Apache-2.0
// A server as a user names it: by URL, by the id of her job, or by the name of her service.
#pragma once

#include <memory>
#include <string>

#include "app/tunnel.h"
#include "client/http_client.h"

namespace sluice {

// "http://...", "host:port", or a job id or a service's name that is no folder here.
bool names_server(const std::string& text);

// The words of a key file without its line end; empty for an empty path. Throws Error.
std::string read_key_file(const std::string& path);

class ServerFinder {
 public:
  // `via`: a host to tunnel through to a job's node. Throws Error where `name` is an address.
  ServerFinder(std::string name, std::string key_file, const std::string& via);
  // Where it is now, with its key: of --key-file, of the user's own job at that address, else OPENAI_API_KEY. Waits,
  // with a line on standard error, for a job that is not ready yet. Throws Error.
  Url find(std::string& key);

 private:
  const std::string name_, key_file_;
  Way way_;
};

}  // namespace sluice

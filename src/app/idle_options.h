// SPDX-License-Identifier: Apache-2.0
// Options that mean nothing in this run. Typed on its command line they are refused by name; a variable may be a site's
// default for other runs, and stays without effect where it does not apply.
#pragma once

#include <optional>
#include <string>

#include "base/settings.h"

namespace sluice {

// What of a run decides which of its options are read.
struct RunKind {
  bool null_model = false;  // fixed tokens without compute
  bool encoder = false;     // the model has one
  std::optional<bool> gpu;  // not yet known
};

bool is_typed(const Settings& settings, const std::string& name);

// For a model that is not among the downloaded ones. Throws Error.
[[noreturn]] void refuse_revision(const std::string& revision, const std::string& model);

// Throws Error.
void refuse_idle_options(const Settings& settings, const RunKind& run);
// Of a verb that asks a server: the model and its ranks are not in this process. `server` as the user named it. Throws
// Error.
void refuse_local_options(const Settings& settings, const std::string& server);

}  // namespace sluice

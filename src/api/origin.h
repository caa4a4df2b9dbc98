// SPDX-License-Identifier: Apache-2.0
// Which pages a browser lets speak to this server, and under which names it answers. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// True where `origin` (an Origin header) is one of `allowed`: whole origins, "*" for any, "local" for pages of
// http://localhost, 127.0.0.1 and [::1] on any port, which is what tunnels and the own page of another job are.
bool origin_allowed(std::string_view origin, const std::vector<std::string>& allowed);

// True where a Host header names this server: an address, localhost, one of `names` with or without its domain, or
// nothing at all. A server without a key refuses the rest: a page elsewhere could have its own name point here.
bool host_allowed(std::string_view host, const std::vector<std::string>& names);

// True where a page of `origin` came from the host that a Host header names, on any port.
bool same_host(std::string_view origin, std::string_view host);

// Separated by commas, blanks dropped.
std::vector<std::string> comma_list(std::string_view text);

}  // namespace sluice

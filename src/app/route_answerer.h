// SPDX-License-Identifier: Apache-2.0
// Lines of OpenAI's batch format, answered as the server's own routes answer them: the same parser, the same limits,
// the same body, without a socket.
#pragma once

#include <memory>

#include "api/service.h"
#include "batch/answerer.h"

namespace sluice {

// Prompts in OpenAI's format go to the routes of `service`, which outlives the answerer, all others to `plain`.
// `threads`: answers under way at once. `created`: what bodies carry as their time, equal in every attempt.
std::unique_ptr<Answerer> route_answerer(const Service& service, std::unique_ptr<Answerer> plain, uint64_t seed,
                                         int64_t threads, int64_t created);

}  // namespace sluice

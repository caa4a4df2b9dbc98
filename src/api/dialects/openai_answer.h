// SPDX-License-Identifier: Apache-2.0
// Runs a chat or completions call and fills the reply, whole or streamed.
#pragma once

#include "api/dialects/openai_parse.h"
#include "api/http.h"
#include "api/service.h"

namespace sluice::openai {

void answer(const HttpRequest& http, Reply& reply, const Service& service, Call call);

}  // namespace sluice::openai

// SPDX-License-Identifier: Apache-2.0
// TGI's routes beside generation itself: chat and completions in its manner, the counting of chat tokens, and the two
// ways that hosting platforms wrap a request.
#pragma once

#include "api/dialect.h"
#include "api/dialects/tgi_parse.h"

namespace sluice::tgi {

void chat(const HttpRequest& http, Reply& reply, const RouteContext& context);
void completion(const HttpRequest& http, Reply& reply, const RouteContext& context);
// {"tokenize_response": [...], "templated_text"}
void chat_tokenize(const HttpRequest& http, Reply& reply, const RouteContext& context);
// {"instances": [...]} -> {"predictions": [text]}
void vertex(const HttpRequest& http, Reply& reply, const RouteContext& context);

}  // namespace sluice::tgi

// SPDX-License-Identifier: Apache-2.0
// Replies of Text Generation Inference: pure functions from results to JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/dialects/tgi_parse.h"
#include "api/stream.h"

namespace sluice::tgi {

std::string_view finish_name(FinishReason reason);  // length, eos_token, stop_sequence
void append_token(std::string& out, const TokenInfo& token);
// {"generated_text": ..., "details"?: ...}; the answer with the best mean log probability comes first.
void append_whole(std::string& out, const Prepared& prepared, const std::vector<Answer>& answers, const Usage& usage,
                  const std::vector<TokenInfo>& prompt);
// One event of a stream; `text` and `usage` are set on the last one.
void append_piece(std::string& out, const Prepared& prepared, const Event& event, const std::string* text,
                  const Usage* usage);
void append_error(std::string& out, std::string_view message, std::string_view type);
std::string info(const Service& service);
// [{"id", "text", "start", "stop"}], offsets in bytes of the decoded text.
std::string tokens(const Service& service, std::string_view inputs, bool add_special);

}  // namespace sluice::tgi

// SPDX-License-Identifier: Apache-2.0
// Replies of Ollama's own routes: pure functions from results to JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/dialects/ollama_parse.h"
#include "api/stream.h"

namespace sluice::ollama {

std::string timestamp(double wall);  // RFC 3339, UTC, nanoseconds

// {"model", "created_at", "response" | "message": text, "done"...} up to before the closing brace.
void append_piece(std::string& out, const Call& call, double wall, std::string_view text, bool done,
                  const std::vector<ToolCall>& calls = {}, std::string_view thinking = {});
// What the last object adds. `seconds`: from arrival to now; `context`: ids of the conversation, when told.
void append_end(std::string& out, const Call& call, FinishReason finish, const Usage& usage, double seconds,
                const std::vector<int32_t>& context);
// The tokens of a piece, where they were asked for; the one that ended the text is none of them.
void append_tokens(std::string& out, const Call& call, const std::vector<TokenInfo>& tokens);
void append_error(std::string& out, std::string_view message);

std::string tags(const ModelFacts& facts, double modified);
std::string running(const ModelFacts& facts, double started);
std::string show(const Service& service, bool verbose);

}  // namespace sluice::ollama

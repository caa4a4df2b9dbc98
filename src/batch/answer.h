// SPDX-License-Identifier: Apache-2.0
// One line of the output file, and the check that a finished output belongs to a prompt file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "batch/prompt_file.h"
#include "engine/request.h"

namespace sluice {

// {"index":0,"id":..,"prompt":".." | "messages":[..],"text":"..","finish_reason":"stop"|"length","stop":"..",
//  "prompt_tokens":5,"generated_tokens":9,"seed":1}. Key order is fixed; "id" and "stop" only where they exist.
std::string format_answer(const Prompt& prompt, const std::string& text, FinishReason finish, const std::string& stop,
                          const Usage& usage);
// The same head, then "error" in place of the answer. In OpenAI's format:
// {"id":"batch_req_0","custom_id":..,"response":null,"error":{"code":"invalid_request","message":".."}}
std::string format_error(const Prompt& prompt, const std::string& error);
// OpenAI's format: {"id":"batch_req_0","custom_id":..,"response":{"status_code":200,"request_id":"..","body":{..}},
// "error":null}. `body` is JSON.
std::string format_response(const Prompt& prompt, int status, const std::string& body);
std::string request_id(const Prompt& prompt);  // "batch_req_0"

// Nothing when there is no `output`; how many of its lines carry an error when it holds exactly the answers to
// `prompts`, in order. Throws Error when it exists but belongs to something else: it is never overwritten.
std::optional<int64_t> complete_output(const std::filesystem::path& output, const PromptFile& prompts);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// One line of the output file, and the check that a finished output belongs to a prompt file.
#pragma once

#include <filesystem>
#include <string>

#include "batch/prompt_file.h"
#include "engine/request.h"

namespace sluice {

// {"index":0,"id":..,"prompt":".." | "messages":[..],"text":"..","finish_reason":"stop"|"length","stop":"..",
//  "prompt_tokens":5,"generated_tokens":9,"seed":1}. Key order is fixed; "id" and "stop" only where they exist.
std::string format_answer(const Prompt& prompt, const std::string& text, FinishReason finish, const std::string& stop,
                          const Usage& usage);
// The same head, then "error" in place of the answer.
std::string format_error(const Prompt& prompt, const std::string& error);

// True when `output` exists and holds exactly the answers to `prompts`, in order. Throws Error when it exists but
// belongs to something else: it is never overwritten.
bool is_complete(const std::filesystem::path& output, const PromptFile& prompts);

}  // namespace sluice

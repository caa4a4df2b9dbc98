// SPDX-License-Identifier: Apache-2.0
// Generation parameters that several front ends accept under one name, with transformers' names and meanings:
//   bad_words (strings), bad_words_ids (lists of ids), no_repeat_ngram_size, suppress_tokens, begin_suppress_tokens,
//   allowed_token_ids, forced_bos_token_id, forced_eos_token_id, exponential_decay_length_penalty ([start, factor]),
//   epsilon_cutoff, eta_cutoff
#pragma once

#include <span>
#include <string_view>

#include "engine/request.h"
#include "text/value.h"

namespace sluice {

std::span<const std::string_view> sampling_field_names();
// False when the name is none of them. A null value asks for nothing. Throws RequestError(kValidation) that names it.
bool read_sampling_field(std::string_view name, const Value& value, GenerateRequest& request);

}  // namespace sluice

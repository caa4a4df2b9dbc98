// SPDX-License-Identifier: Apache-2.0
// From a request to what scheduler and sampler do.
#pragma once

#include <cstdint>

#include "engine/request.h"
#include "model/model.h"
#include "schedule/sequence.h"
#include "text/tokenizer.h"

namespace sluice {

// Throws RequestError(kValidation) that names the field. `longest`: prompt and answer together; with
// an encoder the answer alone, and the prompt has `encoder` tokens at most (else 0).
void validate(const GenerateRequest& request, const ModelInfo& model, int64_t longest, int64_t encoder);

// For executors whose sampler knows bias, penalties and warpers alone: throws RequestError for what is beyond.
void refuse_rare_processors(const GenerateRequest& request);

// Of a search (r.beams.width above 1), by what it cannot be combined with, and of its parameters without one.
void validate_beams(const GenerateRequest& request);

// Of a valid request. The seed is the caller's to set.
SequenceSpec sequence_spec(const GenerateRequest& request, const ModelInfo& model, const Tokenizer& tokenizer);

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Replies of the Triton routes: pure functions from results to tensors and JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/dialects/triton_parse.h"
#include "api/metrics.h"
#include "api/stream.h"

namespace sluice::triton {

// The outputs of one model view for a whole batch.
std::vector<Tensor> output_tensors(const ModelView& model, const std::vector<Row>& rows,
                                   const std::vector<Finished>& finished);

// The flat object of generate and generate_stream, its members in alphabetical order. `log_probs`: of each token told.
struct Piece {
  std::vector<std::string> texts;     // one per answer
  std::vector<float> log_probs;       // per token; zeros where none were asked for
  std::vector<double> cum_log_probs;  // one per answer
};
void append_generated(std::string& out, std::string_view model, const Piece& piece);
Piece whole_piece(const Row& row, const Finished& finished);

void append_error(std::string& out, std::string_view message);
std::string statistics(const std::vector<std::string>& models, const Metrics& metrics);

}  // namespace sluice::triton

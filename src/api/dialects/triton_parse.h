// SPDX-License-Identifier: Apache-2.0
// From tensors to engine requests, for both kinds of model view. Every complaint is a RequestError(kValidation).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "api/dialects/triton_models.h"
#include "api/dialects/triton_tensor.h"

namespace sluice::triton {

// What was sent for each input of one row; absent inputs are not in it.
using Inputs = std::map<std::string, std::vector<Scalar>, std::less<>>;

struct Row {
  GenerateRequest request;
  std::string prompt;          // text as sent
  bool exclude_input = false;  // the answer comes without the prompt
  bool stream = false;         // pieces instead of one answer
  bool log_probs = false;      // report them; else zeros stand in their place
};

// A generate body: members that name inputs become tensors, `parameters` may hold more of them, others are ignored.
Inputs read_generate(const JsonView& body, const ModelView& model);
// Checks datatypes and shapes against the model and takes the batch apart.
std::vector<Inputs> split_batch(const InferRequest& request, const ModelView& model);

Row read_row(const Inputs& inputs, const ModelView& model, const Service& service);

}  // namespace sluice::triton

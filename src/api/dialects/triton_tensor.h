// SPDX-License-Identifier: Apache-2.0
// Tensors of the KServe v2 protocol: the JSON part of an infer request with the binary tensors behind it, and the same
// way back. Little-endian, row-major, packed; a BYTES element is a 32-bit length and its bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/http.h"
#include "api/json.h"

namespace sluice::triton {

// One element; which member counts follows from the datatype.
struct Scalar {
  std::string text;     // BYTES
  double number = 0;    // FP32, FP64
  int64_t integer = 0;  // integers, BOOL; UINT64 wraps
};

struct Tensor {
  std::string name, datatype;  // "BYTES", "INT32", ...
  std::vector<int64_t> shape;
  std::vector<Scalar> values;  // as many as the shape says
};

struct WantedOutput {
  std::string name;
  bool binary = false;
};

struct InferRequest {
  std::string id;
  std::vector<Tensor> inputs;
  std::vector<WantedOutput> outputs;  // empty: all of the model, in its order
  bool binary_by_default = false;
};

// Throws RequestError(kMalformed, kValidation).
InferRequest read_infer(const HttpRequest& request);
// One JSON scalar of a generate request. Throws RequestError(kValidation) naming `name`.
Scalar read_scalar(const std::string& name, std::string_view datatype, const JsonView& value);

bool is_integral(std::string_view datatype);

// Fills body and headers: {"id"?, "model_name", "model_version", "outputs"} and the binary tensors behind it.
void write_infer(Reply& reply, const InferRequest& request, std::string_view model, const std::vector<Tensor>& outputs);

}  // namespace sluice::triton

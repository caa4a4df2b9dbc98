// SPDX-License-Identifier: Apache-2.0
// The models that a Triton client finds here, all of them the one that is served: `ensemble` and `tensorrt_llm_bls`
// with the tensors of the TensorRT-LLM backend, and one under the served name with those of PyTriton's
// FasterTransformer example.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/service.h"

namespace sluice::triton {

inline constexpr int64_t kMaxBatch = 128;

struct TensorSpec {
  std::string_view name, datatype;
  int dim = 1;  // of the one dimension behind the batch; -1: any
  bool optional = false;
};

struct ModelView {
  std::string name;
  bool example = false;  // FasterTransformer's tensors
  std::span<const TensorSpec> inputs, outputs;
};

// The served name as PyTriton writes it: what is no word character becomes _.
std::string example_name(const std::string& id);
std::vector<ModelView> models(const Service& service);
// Version "" or "1". Throws RequestError(kUnknownModel).
ModelView find_model(const Service& service, const std::string& name, const std::string& version);

std::string server_metadata();
std::string metadata(const ModelView& model);
std::string config(const ModelView& model);
std::string index(const std::vector<ModelView>& models);

}  // namespace sluice::triton

// SPDX-License-Identifier: Apache-2.0
// A norm over the last dimension, with its own weights.
#pragma once

#include "backend/backend.h"

namespace sluice {

enum class NormKind : uint8_t { kLayer, kRms };

struct Norm {
  NormKind kind = NormKind::kLayer;
  float eps = 1e-5f;
  Buffer weight, bias;  // f32 [H]; bias may be empty

  // residual may be empty: then the norm of x. Otherwise residual += x first, and the norm is of the sum.
  void operator()(Backend& backend, const Tensor& out, const Tensor& x, const Tensor& residual = {}) const {
    const auto view = [&](const Buffer& buffer) {
      return buffer.bytes() > 0 ? buffer.view(DType::kF32, {out.dim(1)}) : Tensor{};
    };
    if (kind == NormKind::kRms) {
      backend.rms_norm(out, x, residual, view(weight), eps);
    } else {
      backend.layer_norm(out, x, residual, view(weight), view(bias), eps);
    }
  }
};

}  // namespace sluice

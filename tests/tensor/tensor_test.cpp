// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <doctest/doctest.h>

using namespace sluice;

TEST_CASE("slices keep the stride of what they were cut from") {
  Buffer buffer = Buffer::host(4 * 6 * sizeof(float));
  const Tensor whole = buffer.view(DType::kF32, {4, 6});
  for (int i = 0; i < 24; ++i) whole.as<float>()[i] = static_cast<float>(i);
  const Tensor part = whole.columns(2, 3).rows(1, 2);
  CHECK(to_string(part) == "float32[2, 3]");
  CHECK(static_cast<float*>(part.row(1))[0] == 14.0f);
  CHECK_FALSE(part.contiguous());
  CHECK(whole.rows(1, 2).contiguous());
  CHECK(whole.reshaped({2, 12}).dim(1) == 12);
}

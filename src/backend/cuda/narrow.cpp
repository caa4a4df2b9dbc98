// SPDX-License-Identifier: Apache-2.0
// Weights of 8 and 4 bits, made on the host as the CPU backend makes them, and weights that files hold as they lie on
// the device. They are multiplied with activations that keep their type.
#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/row_form.h"
#include "base/error.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kRowsAtOnce = 256;

kernels::Bits bits_of(Scheme scheme) {
  switch (scheme) {
    case Scheme::kInt8:
      return kernels::Bits::kEight;
    case Scheme::kInt4:
      return kernels::Bits::kFour;
    case Scheme::kInt8Groups:
      return kernels::Bits::kEightGroups;
    case Scheme::kFp8:
      return kernels::Bits::kFloat8;
    default:
      fatal("a scheme that has no few bits");
  }
}

}  // namespace

std::string_view CudaBackend::packing() const { return kRowPacking; }

std::unique_ptr<Weight> CudaBackend::pack_narrow(const HostMatrix& source, Scheme scheme) {
  const RowForm form(source, scheme);
  auto weight =
      std::make_unique<CudaWeight>(form.rows, form.cols, form.stride, form.group, bits_of(scheme),
                                   allocate_device(static_cast<size_t>(form.rows) * form.row_bytes(), stream_),
                                   allocate_device(static_cast<size_t>(form.rows) * form.scale_bytes(), stream_));
  if (source.groups != nullptr && source.groups->order != nullptr) {
    const size_t bytes = static_cast<size_t>(form.cols) * sizeof(int32_t);
    weight->order = allocate_device(bytes, stream_);
    ring_.upload(weight->order.data(), bytes, source.groups->order, bytes, 1);
  }
  const int64_t most = std::min(form.rows, kRowsAtOnce);
  std::vector<char> rows(static_cast<size_t>(most) * form.row_bytes()),
      scales(static_cast<size_t>(most) * form.scale_bytes());
  for (int64_t first = 0; first < form.rows; first += most) {
    const int64_t now = std::min(most, form.rows - first);
    form.make(source, first, now, rows.data(), scales.data());
    const auto up = [&](Buffer& to, const std::vector<char>& from, size_t bytes) {
      ring_.upload(static_cast<char*>(to.data()) + static_cast<size_t>(first) * bytes, bytes, from.data(), bytes,
                   static_cast<size_t>(now));
    };
    up(weight->data, rows, form.row_bytes());
    up(weight->scales, scales, form.scale_bytes());
  }
  return weight;
}

std::unique_ptr<Weight> CudaBackend::restore(PackedForm packed) {
  const RowForm form = check_rows(packed);
  packed.parts.resize(RowForm::kParts);
  Buffer &data = packed.parts[RowForm::kRows].memory, &scales = packed.parts[RowForm::kScales].memory,
         &order = packed.parts[RowForm::kOrder].memory;
  if (!form.narrow())
    return std::make_unique<CudaWeight>(form.rows, form.cols, form.stride, form.element, std::move(data));
  auto weight = std::make_unique<CudaWeight>(form.rows, form.cols, form.stride, form.group, bits_of(form.scheme),
                                             std::move(data), std::move(scales));
  if (order.bytes() == 0) return weight;
  std::vector<int32_t> columns(static_cast<size_t>(form.cols));
  copy_out(columns.data(), order.view(DType::kI32, {form.cols}));
  for (const int32_t from : columns) {
    if (from < 0 || from >= form.cols)
      throw Error(fmt::format("a packed matrix of {} columns is damaged: it takes one from {}", form.cols, from));
  }
  weight->order = std::move(order);
  return weight;
}

}  // namespace sluice::cuda

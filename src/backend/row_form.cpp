// SPDX-License-Identifier: Apache-2.0
#include "backend/row_form.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/quantise.h"
#include "base/error.h"

namespace sluice {
namespace {
constexpr int64_t kMostThreads = 8;

void widen_row(float* to, const void* from, DType dtype, int64_t n) {
  const auto* narrow = static_cast<const uint16_t*>(from);
  switch (dtype) {
    case DType::kF32:
      std::copy_n(static_cast<const float*>(from), n, to);
      return;
    case DType::kBF16:
      std::transform(narrow, narrow + n, to, bf16_to_f32);
      return;
    case DType::kF16:
      std::transform(narrow, narrow + n, to, f16_to_f32);
      return;
    default:
      fatal("weights are rounded from float32, bfloat16 or float16");
  }
}

// Rows of `source` from `first`, one after the other.
class RowMaker {
 public:
  RowMaker(const HostMatrix& source, const RowForm& form)
      : source_(source),
        form_(form),
        groups_(static_cast<size_t>(form.groups)),
        floats_(static_cast<size_t>(form.cols)),
        q_{std::vector<uint8_t>(static_cast<size_t>(form.cols)), std::vector<float>(groups_),
           std::vector<uint8_t>(groups_)} {}

  void make(int64_t r, void* to, void* scales) {
    const void* from = static_cast<const char*>(source_.data) +
                       static_cast<size_t>(r * source_.row_stride) * dtype_bytes(source_.dtype);
    std::memset(to, 0, form_.row_bytes());
    if (!form_.narrow()) return floats(from, to);
    if (source_.groups != nullptr) {
      numbers(r, static_cast<const uint8_t*>(from));
    } else {
      widen_row(floats_.data(), from, source_.dtype, form_.cols);
      form_.scheme == Scheme::kInt8 ? round_row_int8(q_, floats_.data(), form_.cols)
                                    : round_row_int4(q_, floats_.data(), form_.cols);
    }
    put_numbers(static_cast<uint8_t*>(to));
    if (form_.scale == DType::kF32) {
      std::copy_n(q_.scales.data(), groups_, static_cast<float*>(scales));
      return;
    }
    auto* pairs = static_cast<uint16_t*>(scales);
    for (size_t g = 0; g < groups_; ++g) {
      pairs[2 * g] = f32_to_f16(q_.scales[g]);
      pairs[2 * g + 1] = f32_to_f16(static_cast<float>(q_.zeros[g]));
    }
  }

 private:
  void floats(const void* from, void* to) {
    if (source_.dtype == form_.element) {
      std::memcpy(to, from, static_cast<size_t>(form_.cols) * dtype_bytes(form_.element));
      return;
    }
    widen_row(floats_.data(), from, source_.dtype, form_.cols);
    auto* narrow = static_cast<uint16_t*>(to);
    if (form_.element == DType::kF32) {
      std::copy(floats_.begin(), floats_.end(), static_cast<float*>(to));
    } else {
      std::transform(floats_.begin(), floats_.end(), narrow, form_.element == DType::kBF16 ? f32_to_bf16 : f32_to_f16);
    }
  }

  void numbers(int64_t r, const uint8_t* from) {
    std::copy_n(from, form_.cols, q_.numbers.begin());
    const auto at = static_cast<size_t>(r) * groups_;
    std::copy_n(source_.groups->scale + at, groups_, q_.scales.begin());
    if (source_.groups->zero == nullptr) return;
    for (size_t g = 0; g < groups_; ++g) q_.zeros[g] = static_cast<uint8_t>(source_.groups->zero[at + g]);
  }

  void put_numbers(uint8_t* to) const {
    for (int64_t k = 0; k < form_.cols; ++k) {
      const uint8_t q = q_.numbers[static_cast<size_t>(k)];
      if (form_.scheme == Scheme::kInt4) {
        to[k / 2] = static_cast<uint8_t>(to[k / 2] | q << (4 * (k % 2)));
      } else {
        to[k] = form_.scheme == Scheme::kInt8 ? static_cast<uint8_t>(q - 128) : q;
      }
    }
  }

  const HostMatrix& source_;
  const RowForm& form_;
  size_t groups_;
  std::vector<float> floats_;
  QuantisedRow q_;
};

int64_t group_of(const HostMatrix& source, Scheme scheme) {
  if (source.groups == nullptr) return scheme == Scheme::kInt4 ? kInt4Group : 0;
  return source.groups->group < source.cols ? source.groups->group : 0;
}

[[noreturn]] void refuse(const PackedForm& form, const std::string& what) {
  throw Error(fmt::format("a packed matrix of {} rows and {} columns is damaged: {}", form.rows, form.cols, what));
}

class RowWeight final : public Weight {
 public:
  RowWeight(const RowForm& form, Buffer data, Buffer scales, Buffer order)
      : Weight(form.rows, form.cols, data.bytes() + scales.bytes()),
        form(form),
        data(std::move(data)),
        scales(std::move(scales)),
        order(std::move(order)) {}
  RowForm form;
  Buffer data, scales, order;
};

class RowPacker final : public CpuBackend {
 public:
  using CpuBackend::CpuBackend;
  std::string_view packing() const override { return kRowPacking; }
  bool packs(Scheme) const override { return true; }
  std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme) override {
    const RowForm form(source, scheme);
    Buffer data = allocate(static_cast<size_t>(form.rows) * form.row_bytes()), scales, order;
    if (form.narrow()) scales = allocate(static_cast<size_t>(form.rows) * form.scale_bytes());
    form.make(source, 0, form.rows, data.data(), scales.data());
    if (source.groups != nullptr && source.groups->order != nullptr) {
      order = allocate(static_cast<size_t>(form.cols) * sizeof(int32_t));
      std::copy_n(source.groups->order, form.cols, static_cast<int32_t*>(order.data()));
    }
    return std::make_unique<RowWeight>(form, std::move(data), std::move(scales), std::move(order));
  }
  PackedForm form(const Weight& weight) const override {
    const auto& w = static_cast<const RowWeight&>(weight);
    PackedForm out{w.form.scheme, w.form.rows, w.form.cols, {}};
    out.parts.resize(RowForm::kParts);
    out.parts[RowForm::kRows] = {w.form.shape(RowForm::kRows), w.form.element, w.data.data()};
    if (w.form.narrow()) out.parts[RowForm::kScales] = {w.form.shape(RowForm::kScales), w.form.scale, w.scales.data()};
    if (w.order.bytes() > 0) out.parts[RowForm::kOrder] = {w.form.shape(RowForm::kOrder), DType::kI32, w.order.data()};
    return out;
  }
};
}  // namespace

RowForm::RowForm(Scheme scheme, int64_t rows, int64_t cols, int64_t given)
    : scheme(scheme), rows(rows), cols(cols), group(given) {
  switch (scheme) {
    case Scheme::kF32:
      element = DType::kF32;
      break;
    case Scheme::kBF16:
      element = DType::kBF16;
      break;
    case Scheme::kF16:
      element = DType::kF16;
      break;
    default: {
      const int64_t half = scheme == Scheme::kInt4 ? 2 : 1, whole = 16 * half;
      if (group <= 0 || group >= cols) group = (cols + whole - 1) / whole * whole;
      groups = (cols + group - 1) / group;
      stride = groups * group / half;
      const bool zeros = scheme == Scheme::kInt4 || scheme == Scheme::kInt8Groups;
      width = zeros ? 2 * groups : groups;
      if (zeros) scale = DType::kF16;
      check(group % whole == 0 && (scheme != Scheme::kInt8 || groups == 1),
            "groups of weights of few bits are whole 16 bytes, and rows of int8 have one");
      return;
    }
  }
  const auto step = static_cast<int64_t>(16 / dtype_bytes(element));
  stride = (cols + step - 1) / step * step;
}

RowForm::RowForm(const HostMatrix& source, Scheme scheme)
    : RowForm(scheme, source.rows, source.cols, group_of(source, scheme)) {
  check(source.groups != nullptr || (scheme != Scheme::kFp8 && scheme != Scheme::kInt8Groups),
        "such weights are not made of floats");
}

std::vector<int64_t> RowForm::shape(Part part) const {
  if (part == kRows) return narrow() ? std::vector{rows, groups, stride / groups} : std::vector{rows, stride};
  return part == kScales ? std::vector{rows, width} : std::vector{cols};
}

void RowForm::make(const HostMatrix& source, int64_t first, int64_t n, void* to_rows, void* to_scales) const {
  const auto part = [&](int64_t begin, int64_t end) {
    RowMaker maker(source, *this);
    for (int64_t r = begin; r < end; ++r)
      maker.make(first + r, static_cast<char*>(to_rows) + static_cast<size_t>(r) * row_bytes(),
                 static_cast<char*>(to_scales) + static_cast<size_t>(r) * scale_bytes());
  };
  const int64_t threads = std::clamp<int64_t>(static_cast<int64_t>(std::thread::hardware_concurrency()), 1,
                                              std::max<int64_t>(1, std::min(kMostThreads, n)));
  std::vector<std::thread> pool;
  for (int64_t t = 1; t < threads; ++t) pool.emplace_back([&, t] { part(n * t / threads, n * (t + 1) / threads); });
  part(0, n / threads);
  for (std::thread& thread : pool) thread.join();
}

RowForm check_rows(const PackedForm& form) {
  if (form.rows <= 0 || form.cols <= 0 || form.parts.empty() || form.parts.size() > RowForm::kParts)
    refuse(form, fmt::format("it has {} parts, expected 1 to {}", form.parts.size(), +RowForm::kParts));
  RowForm out(form.scheme, form.rows, form.cols, 0);
  const std::vector<int64_t>& found = form.parts[RowForm::kRows].shape;
  if (out.narrow() && found.size() == 3 && found[1] > 1) {
    const int64_t half = form.scheme == Scheme::kInt4 ? 2 : 1;
    if (form.scheme == Scheme::kInt8 || found[2] <= 0 || found[2] % 16 != 0 || found[2] > form.cols)
      refuse(form, fmt::format("its rows are [{}]", fmt::join(found, ", ")));
    out = RowForm(form.scheme, form.rows, form.cols, found[2] * half);
  }
  const auto require = [&](RowForm::Part part, DType dtype, const char* name) {
    const bool wanted = part == RowForm::kRows || (part == RowForm::kScales && out.narrow());
    static const PackedPart kNone;
    const PackedPart& is = part < form.parts.size() ? form.parts[part] : kNone;
    if (is.shape.empty() && !wanted) return;
    const std::vector<int64_t> shape = out.shape(part);
    if (is.shape != shape || is.dtype != dtype || is.memory.bytes() != is.bytes() ||
        (part == RowForm::kScales && !wanted))
      refuse(form, fmt::format("its {} are {}[{}], expected {}[{}]", name, dtype_name(is.dtype),
                               fmt::join(is.shape, ", "), dtype_name(dtype), fmt::join(shape, ", ")));
  };
  require(RowForm::kRows, out.element, "rows");
  require(RowForm::kScales, out.scale, "scales");
  require(RowForm::kOrder, DType::kI32, "columns");
  return out;
}

std::unique_ptr<Backend> make_row_packer(const CpuOptions& options) { return std::make_unique<RowPacker>(options); }

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Packed weights as files keep them, and back. What comes from a file is checked before a kernel walks over it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backend/cpu/panel_weight.h"
#include "base/error.h"

namespace sluice {
namespace {
enum Part : size_t { kPanels, kScales, kOrder, kParts };

[[noreturn]] void refuse(const PackedForm& form, const std::string& what) {
  throw Error(fmt::format("a packed matrix of {} rows and {} columns is damaged: {}", form.rows, form.cols, what));
}

void require(const PackedForm& form, Part part, DType dtype, const std::vector<int64_t>& shape, const char* name) {
  const PackedPart& found = form.parts[part];
  const bool fits = found.shape == shape && (shape.empty() || (found.dtype == dtype && found.memory.data() != nullptr &&
                                                               found.memory.bytes() == found.bytes()));
  if (!fits)
    refuse(form, fmt::format("its {} are {}[{}], expected {}[{}]", name, dtype_name(found.dtype),
                             fmt::join(found.shape, ", "), dtype_name(dtype), fmt::join(shape, ", ")));
}

// The k of a record of so many bytes; 0 where no record has them.
int64_t group_of(Scheme scheme, int64_t record_bytes) {
  if (!PanelLayout{scheme}.quantised()) return kDepth;
  if (scheme == Scheme::kFp8) return 0;
  for (int64_t group = kDepth; group <= kMaxGroup; group += kDepth) {
    if (static_cast<int64_t>(PanelLayout{scheme, group}.record_bytes()) == record_bytes) return group;
  }
  return 0;
}
}  // namespace

PackedForm PanelWeight::form() const {
  PackedForm out{scheme(), rows_, cols_, {}};
  out.parts.resize(kParts);
  const auto record = static_cast<int64_t>(layout_.record_bytes());
  out.parts[kPanels] = {{panels(), depth() / layout_.group, record}, DType::kU8, data_.data()};
  if (scales_.bytes() > 0) out.parts[kScales] = {{panels() * kPanel}, DType::kF32, scales_.data()};
  if (order_.bytes() > 0) out.parts[kOrder] = {{cols_}, DType::kI32, order_.data()};
  return out;
}

std::unique_ptr<PanelWeight> PanelWeight::restore(PackedForm form) {
  form.parts.resize(std::max<size_t>(form.parts.size(), kParts));
  if (form.parts.size() > kParts) refuse(form, fmt::format("it has {} parts, expected {}", form.parts.size(), +kParts));
  const std::vector<int64_t>& found = form.parts[kPanels].shape;
  PanelLayout layout{form.scheme};
  layout.group = found.size() == 3 ? group_of(form.scheme, found[2]) : 0;
  if (form.rows <= 0 || form.cols <= 0 || layout.group == 0 ||
      (form.scheme == Scheme::kInt8 && layout.group != kInt8Group))
    refuse(form, fmt::format("its panels are [{}]", fmt::join(found, ", ")));
  const int64_t panels = (form.rows + kPanel - 1) / kPanel;
  require(form, kPanels, DType::kU8,
          {panels, layout.depth(form.cols) / layout.group, static_cast<int64_t>(layout.record_bytes())}, "panels");
  const bool scaled = form.scheme == Scheme::kInt8, ordered = !form.parts[kOrder].shape.empty();
  require(form, kScales, DType::kF32, scaled ? std::vector<int64_t>{panels * kPanel} : std::vector<int64_t>{},
          "scales");
  if (ordered) {
    require(form, kOrder, DType::kI32, {form.cols}, "columns");
    const auto* order = static_cast<const int32_t*>(form.parts[kOrder].memory.data());
    for (int64_t k = 0; k < form.cols; ++k)
      if (order[k] < 0 || order[k] >= form.cols)
        refuse(form, fmt::format("it takes its column {} from {}", k, order[k]));
  }
  return std::make_unique<PanelWeight>(form.rows, form.cols, layout, std::move(form.parts[kPanels].memory),
                                       std::move(form.parts[kScales].memory), std::move(form.parts[kOrder].memory));
}

}  // namespace sluice

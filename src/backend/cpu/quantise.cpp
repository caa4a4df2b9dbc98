// SPDX-License-Identifier: Apache-2.0
// Packing of quantised weights: float rows are rounded, numbers that are quantised already are laid out as they are.
#include <algorithm>
#include <cmath>

#include "backend/cpu/panel_weight.h"
#include "backend/quantise.h"
#include "base/error.h"

namespace sluice {
namespace {
// Eight chains, so that the compiler may use vectors: term(row[k]) folded by `fold` from `start`.
template <class Fold, class Term>
float fold_row(const float* row, int64_t n, float start, const Fold& fold, const Term& term) {
  float lanes[8];
  std::fill(lanes, lanes + 8, start);
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    for (int64_t i = 0; i < 8; ++i) lanes[i] = fold(lanes[i], term(row[k + i]));
  }
  for (; k < n; ++k) lanes[0] = fold(lanes[0], term(row[k]));
  for (int i = 1; i < 8; ++i) lanes[0] = fold(lanes[0], lanes[i]);
  return lanes[0];
}
constexpr auto kMore = [](float a, float b) { return a > b ? a : b; };
constexpr auto kLess = [](float a, float b) { return a < b ? a : b; };
constexpr auto kSame = [](float a) { return a; };

// Numbers 0..15 over [low, high], which contains 0, so that zero weights stay zero. The scale is what f16 holds of it.
struct Int4Range {
  float scale, zero;
};
Int4Range int4_range(float low, float high) {
  const float scale = f16_to_f32(f32_to_f16((high - low) / 15.0f));
  return {scale, scale > 0 ? std::clamp(std::nearbyint(-low / scale), 0.0f, 15.0f) : 0.0f};
}
float int4_error(const Int4Range& range, const float* row, int64_t n) {
  const float inverse = 1.0f / range.scale;
  return fold_row(
      row, n, 0.0f, [](float a, float b) { return a + b; },
      [&](float w) {
        const float q = kLess(kMore(std::nearbyint(w * inverse) + range.zero, 0.0f), 15.0f);
        const float off = (q - range.zero) * range.scale - w;
        return off * off;
      });
}

// Narrower ranges cut off the outermost weights and round the others better; that of the least squared error is taken.
void round_group_int4(QuantisedRow& to, int64_t begin, int64_t n, int64_t group, const float* row) {
  constexpr float kShares[] = {0.92f, 0.84f, 0.76f};
  const float low = fold_row(row, n, 0.0f, kLess, kSame), high = fold_row(row, n, 0.0f, kMore, kSame);
  Int4Range best = int4_range(low, high);
  if (best.scale > 0) {
    float least = int4_error(best, row, n);
    for (const float share : kShares) {
      const Int4Range range = int4_range(low * share, high * share);
      if (!(range.scale > 0)) continue;
      const float error = int4_error(range, row, n);
      if (error < least) {
        least = error;
        best = range;
      }
    }
  }
  to.scales[static_cast<size_t>(group)] = best.scale;
  to.zeros[static_cast<size_t>(group)] = static_cast<uint8_t>(best.zero);
  const float inverse = best.scale > 0 ? 1.0f / best.scale : 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    to.numbers[static_cast<size_t>(begin + k)] =
        static_cast<uint8_t>(std::clamp(std::nearbyint(row[k] * inverse) + best.zero, 0.0f, 15.0f));
  }
}

}  // namespace

void round_row_int8(QuantisedRow& to, const float* row, int64_t cols) {
  const float largest = fold_row(row, cols, 0.0f, kMore, [](float a) { return std::abs(a); });
  const float scale = largest / 127.0f, inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
  for (int64_t k = 0; k < cols; ++k) {
    const float rounded = std::nearbyint(row[k] * inverse);
    to.numbers[static_cast<size_t>(k)] = static_cast<uint8_t>(static_cast<int32_t>(rounded) + 128);
  }
  to.scales[0] = inverse == 0.0f ? 0.0f : scale;
}

void round_row_int4(QuantisedRow& to, const float* row, int64_t cols) {
  for (int64_t first = 0; first < cols; first += kInt4Group)
    round_group_int4(to, first, std::min(kInt4Group, cols - first), first / kInt4Group, row + first);
}

namespace {
// The largest group that the kernels take and that cuts a source's groups evenly; 0 where there is none.
int64_t kernel_group(const HostMatrix& source) {
  const int64_t group = std::min(source.groups->group, PanelLayout{Scheme::kInt4}.depth(source.cols));
  if (source.groups->group >= source.cols)
    return source.cols < kMaxGroup ? PanelLayout{}.depth(source.cols) : kMaxGroup;
  for (int64_t part = kMaxGroup; part >= kDepth; part -= kDepth) {
    if (group % part == 0) return part;
  }
  return 0;
}
}  // namespace

std::unique_ptr<Weight> Products::pack_quantised(const HostMatrix& source, Scheme scheme) {
  const bool wide = scheme == Scheme::kInt8;
  const HostGroups* given = source.groups;
  const int64_t rows = source.rows, cols = source.cols, panels = (rows + kPanel - 1) / kPanel;
  PanelLayout layout{scheme, wide ? kInt8Group : given != nullptr ? kernel_group(source) : kInt4Group};
  check(layout.group > 0 && (given == nullptr ? scheme != Scheme::kInt8Groups : !wide || given->group >= cols),
        "the groups of a quantised matrix do not fit its scheme");
  const int64_t depth = layout.depth(cols), records = depth / layout.group;
  const size_t record_bytes = layout.record_bytes(), panel_bytes = static_cast<size_t>(records) * record_bytes;
  Buffer data = allocate_pages(static_cast<size_t>(panels) * panel_bytes);
  Buffer scales, order;
  if (wide) scales = allocate_pages(static_cast<size_t>(panels * kPanel) * sizeof(float));
  if (given != nullptr && given->order != nullptr) {
    order = allocate_pages(static_cast<size_t>(cols) * sizeof(int32_t));
    std::copy(given->order, given->order + cols, static_cast<int32_t*>(order.data()));
  }
  // One scale per record, or one per row.
  const int64_t row_groups = wide ? 1 : records;
  const int64_t given_groups = given == nullptr ? 0 : (cols + given->group - 1) / given->group;
  const size_t source_element = dtype_bytes(source.dtype);

  pool_.split(panels, 4, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(static_cast<size_t>(cols));
    QuantisedRow q{std::vector<uint8_t>(static_cast<size_t>(depth), wide ? 128 : 0),
                   std::vector<float>(static_cast<size_t>(row_groups)),
                   std::vector<uint8_t>(static_cast<size_t>(row_groups))};
    for (int64_t r = begin * kPanel; r < std::min(end * kPanel, rows); ++r) {
      const char* from =
          static_cast<const char*>(source.data) + static_cast<size_t>(r * source.row_stride) * source_element;
      if (given != nullptr) {
        std::copy_n(reinterpret_cast<const uint8_t*>(from), cols, q.numbers.begin());
        for (int64_t g = 0; g < row_groups; ++g) {
          const int64_t at = r * given_groups + (wide ? 0 : g * layout.group / given->group);
          q.scales[static_cast<size_t>(g)] = given->scale[at];
          q.zeros[static_cast<size_t>(g)] = static_cast<uint8_t>(given->zero[at]);
        }
      } else {
        rows_.widen(row.data(), from, source.dtype, cols);
        if (wide) {
          round_row_int8(q, row.data(), cols);
        } else {
          round_row_int4(q, row.data(), cols);
        }
      }
      const int64_t column = r % kPanel;
      auto* panel = static_cast<uint8_t*>(data.data()) + static_cast<size_t>(r / kPanel) * panel_bytes;
      if (wide) static_cast<float*>(scales.data())[r] = q.scales[0];
      for (int64_t g = 0; g < records; ++g) {
        uint8_t* record = panel + static_cast<size_t>(g) * record_bytes;
        const uint8_t* numbers = q.numbers.data() + g * layout.group;
        uint8_t* weights = record;
        if (!wide) {
          reinterpret_cast<uint16_t*>(record)[column] = f32_to_f16(q.scales[static_cast<size_t>(g)]);
          record[2 * kPanel + column] = q.zeros[static_cast<size_t>(g)];
          weights += kGroupHeader;
        }
        if (scheme != Scheme::kInt4) {
          for (int64_t k = 0; k < layout.group; ++k) weights[(k / 4 * kPanel + column) * 4 + k % 4] = numbers[k];
          continue;
        }
        for (int64_t k = 0; k < layout.group; k += 8) {
          for (int64_t i = 0; i < 4; ++i)
            weights[(k / 8 * kPanel + column) * 4 + i] = static_cast<uint8_t>(numbers[k + i] | numbers[k + i + 4] << 4);
        }
      }
    }
  });
  return std::make_unique<PanelWeight>(rows, cols, layout, std::move(data), std::move(scales), std::move(order));
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Layouts: AutoGPTQ nn_modules/qlinear, AutoAWQ modules/linear/gemm.py, bitsandbytes nn/modules.py, transformers
// integrations/finegrained_fp8.py, fbgemm_fp8.py and mxfp4.py, compressed-tensors' float-quantized.
#include "weights/quantised.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "base/error.h"
#include "weights/convert.h"

namespace sluice {
namespace {
using Kind = QuantFormat::Kind;

// Column of a word's nibble.
constexpr int kAwqColumn[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Rows [row, row + n) by columns [col, col + m) of a stored matrix of 4-byte words or other elements.
std::vector<char> read_block(const std::vector<File>& files, const CheckpointTensor& tensor, int64_t row, int64_t n,
                             int64_t col, int64_t m, uint64_t element) {
  const File& file = files[static_cast<size_t>(tensor.file)];
  const auto stride = static_cast<uint64_t>(tensor.stride()) * element, slice = static_cast<uint64_t>(m) * element;
  std::vector<char> out(static_cast<size_t>(n) * slice);
  const uint64_t first = tensor.offset + static_cast<uint64_t>(row) * stride + static_cast<uint64_t>(col) * element;
  if (slice == stride) {
    file.read_at(first, out.data(), out.size());
  } else {
    for (int64_t r = 0; r < n; ++r)
      file.read_at(first + static_cast<uint64_t>(r) * stride, out.data() + static_cast<size_t>(r) * slice, slice);
  }
  return out;
}

std::vector<uint32_t> read_words(const std::vector<File>& files, const CheckpointTensor& tensor, int64_t row, int64_t n,
                                 int64_t col, int64_t m) {
  const std::vector<char> bytes = read_block(files, tensor, row, n, col, m, 4);
  std::vector<uint32_t> out(bytes.size() / 4);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Field i of `bits` bits, lowest first, in words that lie `stride` apart. Fields of 3 bits may straddle two words.
uint32_t field(const uint32_t* words, int64_t stride, int64_t i, int bits) {
  const int64_t at = i * bits, word = at / 32;
  const int shift = static_cast<int>(at % 32);
  uint64_t value = words[word * stride];
  if (shift + bits > 32) value |= static_cast<uint64_t>(words[(word + 1) * stride]) << 32;
  return static_cast<uint32_t>(value >> shift) & ((1u << bits) - 1);
}

[[noreturn]] void refuse(const std::string& origin, const std::string& name, const std::string& what) {
  throw Error(
      fmt::format("{}: the quantised layer {} {}; the checkpoint is damaged or of another format", origin, name, what));
}

QuantisedTensor join_gptq(const std::string& origin, const std::string& name, QuantFormat format,
                          CheckpointTensor weight, CheckpointTensor zeros, CheckpointTensor scales,
                          CheckpointTensor order) {
  const auto matrix = [](const CheckpointTensor& t, const char* dtype) {
    return t.shape.size() == 2 && t.bytes > 0 && t.stored_dtype == dtype && t.row_stride == 0 && t.pieces.empty();
  };
  if (!matrix(weight, "I32") || !matrix(zeros, "I32")) refuse(origin, name, "lacks int32 matrices qweight and qzeros");
  if (scales.shape.size() != 2 || scales.bytes == 0 || scales.row_stride > 0 || !scales.pieces.empty())
    refuse(origin, name, "lacks a contiguous matrix of scales");
  scales.dtype();
  QuantisedTensor out;
  out.rows = scales.shape[1];
  const bool awq = format.kind == Kind::kAwq;
  out.cols = awq ? weight.shape[0] : weight.shape[0] * 32 / format.bits;
  if (format.group > out.cols) format.group = 0;
  out.format = format;
  const int64_t packed = out.rows * format.bits / 32;
  const bool fits = weight.shape[1] == (awq ? packed : out.rows) && zeros.shape[0] == out.groups() &&
                    zeros.shape[1] == packed && scales.shape[0] == out.groups() &&
                    (awq || weight.shape[0] * 32 == out.cols * format.bits) && out.rows * format.bits % 32 == 0;
  if (!fits) {
    refuse(origin, name,
           fmt::format("has qweight [{}], qzeros [{}] and scales [{}], which do not fit {} bits and groups of {}",
                       fmt::join(weight.shape, ", "), fmt::join(zeros.shape, ", "), fmt::join(scales.shape, ", "),
                       format.bits, out.group()));
  }
  if (format.ordered && (order.shape != std::vector<int64_t>{out.cols} || order.stored_dtype != "I32"))
    refuse(origin, name, fmt::format("lacks g_idx int32[{}]", out.cols));
  out.numbers = std::move(weight);
  out.zeros = std::move(zeros);
  out.scales = std::move(scales);
  out.order = std::move(order);
  return out;
}

// Sign, 4 bits of exponent with a bias of 7, 3 of fraction; all ones are NaN, and there is no infinity.
float fp8_to_f32(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                        : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

// Scales of a matrix [out, in] are one number, [out] or [out, 1], or one for each block.
QuantisedTensor join_fp8(const std::string& origin, const std::string& name, QuantFormat format,
                         CheckpointTensor weight, CheckpointTensor scales) {
  if (weight.shape.size() != 2 || !weight.pieces.empty() || scales.row_stride > 0 || !scales.pieces.empty())
    refuse(origin, name, "lacks a contiguous matrix of float8_e4m3fn and its scales");
  scales.dtype();
  QuantisedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  int64_t n = 1;
  for (const int64_t dim : scales.shape) n *= dim;
  const auto blocks = [](int64_t size, int64_t block) { return block > 0 ? (size + block - 1) / block : 1; };
  if (n == 1) {
    format.block_rows = out.rows, format.block_cols = out.cols;
  } else if (n == out.rows && scales.shape[0] == out.rows) {
    format.block_rows = 1, format.block_cols = out.cols;
  } else if (scales.shape !=
             std::vector<int64_t>{blocks(out.rows, format.block_rows), blocks(out.cols, format.block_cols)}) {
    refuse(origin, name,
           fmt::format(
               "has scales [{}] for weight [{}, {}], which fit neither the whole, its rows, nor blocks of {} by {}",
               fmt::join(scales.shape, ", "), out.rows, out.cols, format.block_rows, format.block_cols));
  }
  out.format = format;
  out.numbers = std::move(weight);
  out.scales = std::move(scales);
  return out;
}

// Of floats of 4 bits (e2m1) twice their magnitude, a whole number.
constexpr int kMxfp4Group = 32, kTwiceE2m1[8] = {0, 1, 2, 3, 4, 6, 8, 12};

// blocks u8 [stack, out, groups, 16], the first of two numbers in the low bits; scales u8 [stack, out, groups].
QuantisedTensor join_mxfp4(const std::string& origin, const std::string& name, const QuantFormat& format,
                           CheckpointTensor blocks, CheckpointTensor scales) {
  const auto bytes = [](const CheckpointTensor& t, size_t dims) {
    return t.shape.size() == dims && t.bytes > 0 && t.stored_dtype == "U8" && t.row_stride == 0 && t.pieces.empty();
  };
  const auto& shape = blocks.shape;
  if (!bytes(blocks, 4) || !bytes(scales, 3) || shape[3] != kMxfp4Group / 2 ||
      scales.shape != std::vector<int64_t>(shape.begin(), shape.end() - 1))
    refuse(origin, name, "lacks uint8 blocks [experts, out, groups, 16] and scales [experts, out, groups]");
  QuantisedTensor out;
  out.format = format;
  out.rows = shape[0] * shape[1];
  out.cols = shape[2] * kMxfp4Group;
  blocks.shape = {out.rows, out.cols / 2};
  scales.shape = {out.rows, out.groups()};
  out.numbers = std::move(blocks);
  out.scales = std::move(scales);
  return out;
}

// [blocks down][blocks across]
struct BlockScales {
  int64_t across;
  std::vector<float> scale;
};
BlockScales read_block_scales(const std::vector<File>& files, const QuantisedTensor& t) {
  const int64_t across = (t.cols + t.format.block_cols - 1) / t.format.block_cols,
                down = (t.rows + t.format.block_rows - 1) / t.format.block_rows;
  const DType dtype = t.scales.dtype();
  std::vector<char> raw(static_cast<size_t>(down * across) * dtype_bytes(dtype));
  files[static_cast<size_t>(t.scales.file)].read_at(t.scales.offset, raw.data(), raw.size());
  BlockScales out{across, std::vector<float>(static_cast<size_t>(down * across))};
  convert_elements(out.scale.data(), DType::kF32, raw.data(), dtype, down * across);
  return out;
}

void read_fp8(const std::vector<File>& files, const QuantisedTensor& t, const Range& rows, const Range& cols, float* to,
              int64_t stride) {
  float values[256];
  for (int i = 0; i < 256; ++i) values[i] = fp8_to_f32(static_cast<uint8_t>(i));
  const auto [across, scales] = read_block_scales(files, t);
  const std::vector<char> bytes = read_block(files, t.numbers, rows.begin, rows.count, cols.begin, cols.count, 1);
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* scale = scales.data() + (rows.begin + r) / t.format.block_rows * across;
    for (int64_t k = 0; k < cols.count; ++k)
      to[r * stride + k] = values[static_cast<uint8_t>(bytes[static_cast<size_t>(r * cols.count + k)])] *
                           scale[(cols.begin + k) / t.format.block_cols];
  }
}

// Group of each input feature of the slice.
std::vector<int32_t> group_index(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& cols) {
  std::vector<int32_t> out(static_cast<size_t>(cols.count));
  if (!tensor.format.ordered) {
    for (int64_t k = 0; k < cols.count; ++k)
      out[static_cast<size_t>(k)] = static_cast<int32_t>((cols.begin + k) / tensor.group());
    return out;
  }
  files[static_cast<size_t>(tensor.order.file)].read_at(tensor.order.offset + static_cast<uint64_t>(cols.begin) * 4,
                                                        out.data(), out.size() * 4);
  for (const int32_t g : out) {
    if (g < 0 || g >= tensor.groups()) {
      throw Error(fmt::format("{}: group {} is named, expected 0 to {}", tensor.order.name, g, tensor.groups() - 1));
    }
  }
  return out;
}

// number(r, k, value) for each element of the slice.
template <class Put>
void for_each_number(const std::vector<File>& files, const QuantisedTensor& t, const Range& rows, const Range& cols,
                     const Put& put) {
  const int bits = t.format.bits;
  if (t.format.kind == Kind::kRows8 || t.format.kind == Kind::kFp8) {
    const int middle = t.format.kind == Kind::kRows8 ? 128 : 0;
    const std::vector<char> bytes = read_block(files, t.numbers, rows.begin, rows.count, cols.begin, cols.count, 1);
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t k = 0; k < cols.count; ++k)
        put(r, k, static_cast<uint8_t>(static_cast<int8_t>(bytes[static_cast<size_t>(r * cols.count + k)]) + middle));
    }
    return;
  }
  if (t.format.kind == Kind::kMxfp4) {
    const int64_t first = cols.begin / 2, n = (cols.begin + cols.count + 1) / 2 - first;
    const std::vector<char> bytes = read_block(files, t.numbers, rows.begin, rows.count, first, n, 1);
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t k = 0; k < cols.count; ++k) {
        const int64_t col = cols.begin + k;
        const auto pair = static_cast<uint8_t>(bytes[static_cast<size_t>(r * n + col / 2 - first)]);
        const int code = col % 2 == 0 ? pair & 15 : pair >> 4, twice = kTwiceE2m1[code & 7];
        put(r, k, static_cast<uint32_t>(code < 8 ? 128 + twice : 128 - twice));
      }
    }
    return;
  }
  if (t.format.kind == Kind::kAwq) {
    const int64_t first = rows.begin / 8, words = (rows.begin + rows.count + 7) / 8 - first;
    const auto packed = read_words(files, t.numbers, cols.begin, cols.count, first, words);
    int shift_of[8];
    for (int i = 0; i < 8; ++i) shift_of[kAwqColumn[i]] = 4 * i;
    for (int64_t k = 0; k < cols.count; ++k) {
      for (int64_t r = 0; r < rows.count; ++r) {
        const int64_t row = rows.begin + r;
        put(r, k, packed[static_cast<size_t>(k * words + row / 8 - first)] >> shift_of[row % 8] & 15u);
      }
    }
    return;
  }
  // Whole words of 32 input features, so that no field is cut.
  const int64_t first = cols.begin / 32, blocks = (cols.begin + cols.count + 31) / 32 - first;
  const int64_t begin = first * bits, n = std::min(blocks * bits, t.numbers.shape[0] - begin);
  const auto packed = read_words(files, t.numbers, begin, n, rows.begin, rows.count);
  const int64_t skip = cols.begin - first * 32;
  for (int64_t k = 0; k < cols.count; ++k) {
    for (int64_t r = 0; r < rows.count; ++r) put(r, k, field(packed.data() + r, rows.count, skip + k, bits));
  }
}

struct Groups {
  std::vector<float> scale, zero;  // [rows][groups of the file]
};
Groups read_groups(const std::vector<File>& files, const QuantisedTensor& t, const Range& rows) {
  const int64_t n = t.groups();
  Groups out;
  out.scale.resize(static_cast<size_t>(rows.count * n));
  out.zero.assign(out.scale.size(), 128.0f);
  if (t.format.kind == Kind::kRows8) {
    const auto bytes = read_block(files, t.scales, rows.begin, rows.count, 0, 1, 4);
    std::memcpy(out.scale.data(), bytes.data(), bytes.size());
    for (float& s : out.scale) s /= 127.0f;
    return out;
  }
  if (t.format.kind == Kind::kMxfp4) {
    const auto bytes = read_block(files, t.scales, rows.begin, rows.count, 0, n, 1);
    for (size_t i = 0; i < out.scale.size(); ++i)  // 2^(byte - 127), halved
      out.scale[i] = std::ldexp(1.0f, static_cast<uint8_t>(bytes[i]) - 128);
    return out;
  }
  const DType dtype = t.scales.dtype();
  const auto bytes = read_block(files, t.scales, 0, n, rows.begin, rows.count, dtype_bytes(dtype));
  std::vector<float> scales(static_cast<size_t>(n * rows.count));
  convert_elements(scales.data(), DType::kF32, bytes.data(), dtype, n * rows.count);
  const auto zeros = read_words(files, t.zeros, 0, n, 0, t.zeros.shape[1]);
  const uint32_t mask = (1u << t.format.bits) - 1;
  int shift_of[8];
  for (int i = 0; i < 8; ++i) shift_of[kAwqColumn[i]] = 4 * i;
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t row = rows.begin + r;
    for (int64_t g = 0; g < n; ++g) {
      const uint32_t* packed = zeros.data() + g * t.zeros.shape[1];
      uint32_t zero;
      if (t.format.kind == Kind::kAwq) {
        zero = packed[row / 8] >> shift_of[row % 8] & 15u;
      } else {
        zero = field(packed, 1, row, t.format.bits);
        if (t.format.zeros_less_one) zero = (zero + 1) & mask;
      }
      out.scale[static_cast<size_t>(r * n + g)] = scales[static_cast<size_t>(g * rows.count + r)];
      out.zero[static_cast<size_t>(r * n + g)] = static_cast<float>(zero);
    }
  }
  return out;
}
}  // namespace

std::vector<CheckpointTensor> join_quantised(std::vector<CheckpointTensor> tensors, const QuantFormat& format,
                                             const std::string& origin) {
  std::unordered_map<std::string, size_t> by_name;
  for (size_t i = 0; i < tensors.size(); ++i) by_name.emplace(tensors[i].name, i);
  std::vector<bool> used(tensors.size(), false);
  const auto take = [&](const std::string& name) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) return CheckpointTensor{};
    used[found->second] = true;
    return tensors[found->second];
  };
  std::vector<CheckpointTensor> out;
  const auto add = [&](const std::string& name, QuantisedTensor joined, const char* end = ".weight") {
    CheckpointTensor tensor;
    tensor.name = name + end;
    tensor.stored_dtype = "F32";
    tensor.shape = {joined.rows, joined.cols};
    tensor.file = joined.numbers.file;
    tensor.offset = joined.numbers.offset;
    tensor.bytes = joined.numbers.bytes;
    tensor.quantised = std::make_shared<const QuantisedTensor>(std::move(joined));
    out.push_back(std::move(tensor));
  };
  for (const CheckpointTensor& tensor : tensors) {
    if (tensor.name.ends_with(".qweight")) {
      const std::string name = tensor.name.substr(0, tensor.name.size() - 8);
      CheckpointTensor order = take(name + ".g_idx");
      add(name, join_gptq(origin, name, format, take(tensor.name), take(name + ".qzeros"), take(name + ".scales"),
                          std::move(order)));
    } else if (tensor.name.ends_with(".SCB")) {
      const std::string name = tensor.name.substr(0, tensor.name.size() - 4);
      take(name + ".weight_format");
      QuantisedTensor joined;
      joined.format.kind = Kind::kRows8;
      joined.format.bits = 8;
      joined.format.group = 0;
      joined.numbers = take(name + ".weight");
      joined.scales = take(tensor.name);
      const auto& shape = joined.numbers.shape;
      if (shape.size() != 2 || joined.numbers.bytes == 0 || joined.numbers.stored_dtype != "I8" ||
          !joined.numbers.pieces.empty() || joined.scales.stored_dtype != "F32" ||
          joined.scales.shape != std::vector<int64_t>{shape[0]})
        refuse(origin, name, "lacks weight int8[out, in] and SCB float32[out]");
      joined.rows = shape[0];
      joined.cols = shape[1];
      add(name, std::move(joined));
    }
  }
  for (const CheckpointTensor& tensor : tensors) {
    if (format.kind != Kind::kMxfp4 || !tensor.name.ends_with("_blocks")) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
    add(name, join_mxfp4(origin, name, format, take(tensor.name), take(name + "_scales")), "");
  }
  for (const CheckpointTensor& tensor : tensors) {
    if (tensor.stored_dtype != "F8_E4M3" || !tensor.name.ends_with(".weight")) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - 7);
    CheckpointTensor scales = take(name + ".weight_scale_inv");  // it multiplies, whatever its name says
    if (scales.name.empty()) scales = take(name + ".weight_scale");
    if (scales.name.empty())
      refuse(origin, name, "has weights of float8_e4m3fn, but neither weight_scale_inv nor weight_scale");
    for (const char* unused : {".input_scale", ".activation_scale", ".input_scale_ub", ".weight_scale_ub"})
      take(name + unused);
    QuantFormat fp8 = format;
    fp8.kind = Kind::kFp8;
    add(name, join_fp8(origin, name, std::move(fp8), take(tensor.name), std::move(scales)));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!used[i]) out.push_back(std::move(tensors[i]));
  }
  return out;
}

QuantisedColumns arrange_columns(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& cols) {
  QuantisedColumns out;
  if (tensor.format.kind == Kind::kRows8) return {cols.count, {}, {0}};
  if (tensor.format.kind == Kind::kFp8) {
    // Blocks that a slice cuts become parts of them.
    const int64_t block = tensor.format.block_cols, part = std::gcd(block, cols.begin % block);
    if (cols.begin % block + cols.count <= block) return {cols.count, {}, {static_cast<int32_t>(cols.begin / block)}};
    if (part % 16 != 0) return out;
    for (int64_t k = 0; k < cols.count; k += part) out.groups.push_back(static_cast<int32_t>((cols.begin + k) / block));
    out.group = part;
    return out;
  }
  const std::vector<int32_t> index = group_index(files, tensor, cols);
  std::vector<int32_t> order(index.size());
  std::iota(order.begin(), order.end(), 0);
  const auto group_of = [&](int32_t k) { return index[static_cast<size_t>(k)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return group_of(a) < group_of(b); });
  const bool sorted = std::is_sorted(order.begin(), order.end());
  std::vector<int32_t> groups;
  const int64_t group = std::min(tensor.group(), cols.count);
  for (size_t i = 0; i < order.size(); ++i) {
    const bool first = static_cast<int64_t>(i) % group == 0;
    if (first) groups.push_back(group_of(order[i]));
    if (group_of(order[i]) != groups.back()) return out;  // a group that the slice cuts
  }
  for (size_t i = 1; i < groups.size(); ++i) {
    if (groups[i] == groups[i - 1]) return out;
  }
  if (group % 32 != 0 && group < cols.count) return out;
  out.group = group;
  out.groups = std::move(groups);
  if (!sorted) out.order = std::move(order);
  return out;
}

void read_quantised(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& rows, const Range& cols,
                    const QuantisedColumns& columns, uint8_t* numbers, int64_t stride, float* scales, float* zeros) {
  std::vector<int32_t> place(static_cast<size_t>(cols.count));  // of each input feature
  std::iota(place.begin(), place.end(), 0);
  for (size_t i = 0; i < columns.order.size(); ++i)
    place[static_cast<size_t>(columns.order[i])] = static_cast<int32_t>(i);
  for_each_number(files, tensor, rows, cols, [&](int64_t r, int64_t k, uint32_t value) {
    numbers[r * stride + place[static_cast<size_t>(k)]] = static_cast<uint8_t>(value);
  });
  const auto n = static_cast<int64_t>(columns.groups.size());
  if (tensor.format.kind == Kind::kFp8) {
    const auto [across, block] = read_block_scales(files, tensor);
    for (int64_t r = 0; r < rows.count; ++r) {
      const float* line = block.data() + (rows.begin + r) / tensor.format.block_rows * across;
      for (int64_t g = 0; g < n; ++g) scales[r * n + g] = line[columns.groups[static_cast<size_t>(g)]];
    }
    return;
  }
  const Groups all = read_groups(files, tensor, rows);
  for (int64_t r = 0; r < rows.count; ++r) {
    for (int64_t g = 0; g < n; ++g) {
      const auto from = static_cast<size_t>(r * tensor.groups() + columns.groups[static_cast<size_t>(g)]);
      scales[r * n + g] = all.scale[from];
      zeros[r * n + g] = all.zero[from];
    }
  }
}

void read_as_floats(const std::vector<File>& files, const QuantisedTensor& tensor, const Range& rows, const Range& cols,
                    float* to, int64_t stride) {
  if (tensor.format.kind == Kind::kFp8) return read_fp8(files, tensor, rows, cols, to, stride);
  const Groups groups = read_groups(files, tensor, rows);
  const std::vector<int32_t> index = tensor.format.kind == Kind::kRows8
                                         ? std::vector<int32_t>(static_cast<size_t>(cols.count), 0)
                                         : group_index(files, tensor, cols);
  const int64_t n = tensor.groups();
  for_each_number(files, tensor, rows, cols, [&](int64_t r, int64_t k, uint32_t value) {
    const auto g = static_cast<size_t>(r * n + index[static_cast<size_t>(k)]);
    to[r * stride + k] = (static_cast<float>(value) - groups.zero[g]) * groups.scale[g];
  });
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// A safetensors file of quantised layers. First byte: the format. Layers that fit together can be read, whole and in
// part, as the numbers and as the floats that they mean.
#include "weights/quantised.h"

#include "fuzz/fuzz.h"

using namespace sluice;

namespace {
QuantFormat format_of(uint8_t byte) {
  using Kind = QuantFormat::Kind;
  QuantFormat out;
  out.name = "fuzz";
  out.kind = byte % 8 == 6 ? Kind::kAwq : byte % 8 == 7 ? Kind::kRows8 : Kind::kGptq;
  constexpr int kBits[] = {4, 3, 2, 8};
  if (out.kind == Kind::kGptq) out.bits = kBits[byte % 4];
  out.group = byte & 8 ? 64 : byte & 16 ? 128 : 32;
  if (byte & 128) out.group = 0;
  out.ordered = out.kind == Kind::kGptq && (byte & 32) != 0;
  out.zeros_less_one = (byte & 64) == 0;
  return out;
}

Range part(int64_t begin, int64_t count) {
  Range out;
  out.begin = begin;
  out.count = out.padded = count;
  return out;
}

void read(const Checkpoint& checkpoint, const QuantisedTensor& tensor, const Range& rows, const Range& cols) {
  std::vector<float> floats(static_cast<size_t>(rows.count * cols.count));
  read_as_floats(checkpoint.files(), tensor, rows, cols, floats.data(), cols.count);
  const QuantisedColumns columns = arrange_columns(checkpoint.files(), tensor, cols);
  if (columns.group == 0) return;
  std::vector<uint8_t> numbers(floats.size());
  std::vector<float> scales(static_cast<size_t>(rows.count) * columns.groups.size()), zeros(scales.size());
  read_quantised(checkpoint.files(), tensor, rows, cols, columns, numbers.data(), cols.count, scales.data(),
                 zeros.data());
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const fuzz::Folder folder;
  folder.write("model.safetensors", fuzz::text_of(data + 1, size - 1));
  fuzz::accepts([&] {
    Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
    checkpoint.join(format_of(data[0]));
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      if (tensor.quantised == nullptr) continue;
      const QuantisedTensor& layer = *tensor.quantised;
      fuzz::demand(layer.rows >= 0 && layer.cols >= 0 && tensor.shape.size() == 2, "a layer without a shape");
      fuzz::demand(layer.rows == 0 || layer.cols <= static_cast<int64_t>(size) * 16 / layer.rows,
                   "a layer larger than its file");
      read(checkpoint, layer, part(0, layer.rows), part(0, layer.cols));
      read(checkpoint, layer, part(layer.rows / 2, layer.rows - layer.rows / 2), part(0, layer.cols));
      read(checkpoint, layer, part(0, layer.rows), part(layer.cols / 2, layer.cols - layer.cols / 2));
    }
  });
  return 0;
}

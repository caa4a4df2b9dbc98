// SPDX-License-Identifier: Apache-2.0
#include "weights/load.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "weights/convert.h"

namespace sluice {
namespace {
// The same on every machine, unlike std::hash. FNV-1a.
uint64_t name_seed(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

// The part where the file has it: as it is, or cut into the runs that lie apart there.
void append_stored(std::vector<StagingPart>& out, const StagingPart& part, const Stored& stored) {
  const int64_t run = stored.run > 0 ? stored.run : std::max<int64_t>(1, part.rows.begin + part.rows.count);
  const int64_t end = part.rows.begin + part.rows.count;
  int64_t row = part.rows.begin;
  do {  // at least once, so that a part of padding alone stays
    const int64_t now = std::min(end, (row / run + 1) * run) - row;
    StagingPart piece = part;
    piece.rows = {stored.first + row / run * stored.stride + row % run, now, now};
    piece.to_row = part.to_row + row - part.rows.begin;
    out.push_back(piece);
    row += now;
  } while (row < end);
}

// Converts through a small buffer into device memory.
void copy_converted(Backend& backend, const Buffer& to, DType to_dtype, const HostMatrix& matrix) {
  const int64_t total = matrix.rows * matrix.cols;
  const size_t from_bytes = dtype_bytes(matrix.dtype), to_bytes = dtype_bytes(to_dtype);
  if (matrix.dtype == to_dtype) {
    if (total > 0) backend.copy_in(to.view(to_dtype, {total}), matrix.data);
    return;
  }
  if (total > 0 && backend.copy_in_converted(to.view(to_dtype, {total}), matrix.data, matrix.dtype)) return;
  constexpr int64_t kChunk = 1 << 18;
  std::vector<char> chunk(static_cast<size_t>(std::min(kChunk, total)) * to_bytes);
  for (int64_t done = 0; done < total; done += kChunk) {
    const int64_t now = std::min(kChunk, total - done);
    convert_elements(chunk.data(), to_dtype,
                     static_cast<const char*>(matrix.data) + static_cast<size_t>(done) * from_bytes, matrix.dtype, now);
    backend.copy_in(to.view(to_dtype, {now}, static_cast<size_t>(done) * to_bytes), chunk.data());
  }
}
}  // namespace

Scheme scheme_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Scheme::kF32;
    case DType::kBF16:
      return Scheme::kBF16;
    case DType::kF16:
      return Scheme::kF16;
    default:
      fatal("weights are stored as f32, bf16 or f16");
  }
}

WeightLoader::WeightLoader(Backend& backend, const Checkpoint* checkpoint, const std::vector<TensorSpec>& table,
                           const Partition& partition, DType dtype)
    : backend_(backend), checkpoint_(checkpoint), partition_(partition), dtype_(dtype) {
  for (const TensorSpec& spec : table) specs_.emplace(spec.name, spec);
}

StagingItem& WeightLoader::item(std::span<const std::string> names) {
  std::string key;
  for (const std::string& name : names) key += name + "\n";
  if (const auto known = by_names_.find(key); known != by_names_.end()) return items_[known->second];

  StagingItem out;
  bool same_dtype = true;
  for (const std::string& name : names) {
    const auto spec = specs_.find(name);
    check(spec != specs_.end(), "a tensor is loaded that the family's table does not list");
    const std::vector<int64_t>& shape = spec->second.shape;
    StagingPart part;
    part.source_cols = shape.size() == 2 ? shape[1] : 1;
    part.rows = partition_.of(spec->second.rows, shape[0]);
    part.cols = shape.size() == 2 ? partition_.of(spec->second.cols, shape[1]) : Range{0, 1, 1};
    part.to_row = out.rows;
    check(out.parts.empty() || out.cols == part.cols.padded, "stacked tensors have equally many columns");
    out.cols = part.cols.padded;
    out.rows += part.rows.padded;
    DType dtype = dtype_;
    if (checkpoint_ != nullptr) {
      const std::vector<int64_t> stored_shape = spec->second.stored_shape();
      part.tensor = &checkpoint_->at(spec->second.stored_name(), stored_shape);
      part.transposed = spec->second.stored.transposed;
      if (part.transposed) part.source_cols = stored_shape[1];
      dtype = part.tensor->dtype();
    } else {
      part.seed = name_seed(name);
      part.scale = spec->second.init == Init::kOne ? 0.0f : std::sqrt(3.0f / static_cast<float>(shape.back()));
    }
    if (out.parts.empty()) out.dtype = dtype;
    same_dtype = same_dtype && dtype == out.dtype;
    if (part.tensor != nullptr) {
      append_stored(out.parts, part, spec->second.stored);
    } else {
      out.parts.push_back(part);
    }
  }
  if (!same_dtype || out.dtype == DType::kF64) out.dtype = DType::kF32;
  // Reads go through the file in its order.
  std::stable_sort(out.parts.begin(), out.parts.end(), [](const StagingPart& a, const StagingPart& b) {
    if (a.tensor == nullptr || b.tensor == nullptr) return false;
    const auto place = [](const StagingPart& p) { return std::tuple(p.tensor->file, p.tensor->offset, p.rows.begin); };
    return place(a) < place(b);
  });
  by_names_.emplace(std::move(key), items_.size());
  items_.push_back(std::move(out));
  return items_.back();
}

void WeightLoader::matrix(std::span<const std::string> names, std::unique_ptr<Weight>& to) {
  item(names).consumers.push_back([this, &to](const HostMatrix& source) {
    to = backend_.pack(source, scheme_of(dtype_));
    weight_bytes_ += to->bytes();
  });
}

void WeightLoader::table(const std::string& name, Buffer& to) {
  item({&name, 1}).consumers.push_back([this, &to](const HostMatrix& source) {
    to = backend_.allocate(static_cast<size_t>(source.rows * source.cols) * dtype_bytes(dtype_));
    weight_bytes_ += to.bytes();
    copy_converted(backend_, to, dtype_, source);
  });
}

void WeightLoader::vector(std::span<const std::string> names, Buffer& to) {
  item(names).consumers.push_back([this, &to](const HostMatrix& source) {
    to = backend_.allocate(static_cast<size_t>(source.rows * source.cols) * sizeof(float));
    weight_bytes_ += to.bytes();
    copy_converted(backend_, to, DType::kF32, source);
  });
}

void WeightLoader::run(const StagingOptions& options_in) {
  StagingOptions options = options_in;
  options.backend = &backend_;
  static const std::vector<File> kNoFiles;
  stage(checkpoint_ != nullptr ? checkpoint_->files() : kNoFiles, std::move(items_), options);
  items_.clear();
  by_names_.clear();
}

std::vector<std::string> unused_tensors(const Checkpoint& checkpoint, const std::vector<TensorSpec>& table,
                                        std::span<const std::string> ignored) {
  std::unordered_set<const CheckpointTensor*> used;
  for (const TensorSpec& spec : table) {
    if (const CheckpointTensor* tensor = checkpoint.find(spec.stored_name())) used.insert(tensor);
  }
  std::vector<std::string> out;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const bool known =
        std::any_of(ignored.begin(), ignored.end(), [&](const std::string& end) { return tensor.name.ends_with(end); });
    if (!known && !used.contains(&tensor)) out.push_back(tensor.name);
  }
  return out;
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "weights/load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

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

Scheme scheme_of(const QuantFormat& format) {
  if (format.kind == QuantFormat::Kind::kRows8) return Scheme::kInt8;
  if (format.kind == QuantFormat::Kind::kFp8) return Scheme::kFp8;
  return format.bits > 4 ? Scheme::kInt8Groups : Scheme::kInt4;
}

// The arrangement in which all parts of an item stay quantised; null where there is none, and floats are staged.
std::shared_ptr<StagedGroups> common_groups(const StagingItem& item, const std::vector<File>& files,
                                            const Backend& backend) {
  std::shared_ptr<StagedGroups> out;
  for (const StagingPart& part : item.parts) {
    const QuantisedTensor* quantised = part.tensor->quantised.get();
    if (quantised == nullptr || part.cols.count != item.cols) return nullptr;
    const Scheme scheme = scheme_of(quantised->format);
    if (!backend.packs(scheme)) return nullptr;
    QuantisedColumns columns = arrange_columns(files, *quantised, part.cols);
    if (columns.group == 0 || (out != nullptr && (scheme != out->scheme || columns != out->columns))) return nullptr;
    out = std::make_shared<StagedGroups>(StagedGroups{scheme, std::move(columns), {}, {}});
  }
  return out;
}

// Parts of tensors that lie in several places become one part for each place.
std::vector<StagingPart> in_one_place(const std::vector<StagingPart>& parts) {
  std::vector<StagingPart> out;
  for (const StagingPart& part : parts) {
    if (part.tensor->pieces.empty()) {
      out.push_back(part);
      if (part.tensor->row_stride > 0) out.back().source_cols = part.tensor->row_stride;
      continue;
    }
    if (part.rows.count == 0 || part.cols.count == 0) {  // padding alone
      out.push_back(part);
      out.back().tensor = &part.tensor->pieces.front().tensor;
      continue;
    }
    // Ranges in the file's orientation.
    const Range &rows = part.transposed ? part.cols : part.rows, &cols = part.transposed ? part.rows : part.cols;
    for (const TensorPiece& piece : part.tensor->pieces) {
      const auto& shape = piece.tensor.shape;
      const auto common = [](const Range& wanted, int64_t first, int64_t n) {
        const int64_t begin = std::max(wanted.begin, first), end = std::min(wanted.begin + wanted.count, first + n);
        return Range{begin, std::max<int64_t>(0, end - begin), 0};
      };
      Range r = common(rows, piece.to_row, shape[0]);
      Range c = common(cols, piece.to_col, shape.size() == 2 ? shape[1] : 1);
      if (r.count == 0 || c.count == 0) continue;
      StagingPart one = part;
      one.tensor = &piece.tensor;
      one.source_cols = piece.tensor.stride();
      one.to_row += part.transposed ? c.begin - cols.begin : r.begin - rows.begin;
      one.to_col += part.transposed ? r.begin - rows.begin : c.begin - cols.begin;
      r = {r.begin - piece.to_row, r.count, r.count};
      c = {c.begin - piece.to_col, c.count, c.count};
      one.rows = part.transposed ? c : r;
      one.cols = part.transposed ? r : c;
      out.push_back(one);
    }
  }
  return out;
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

std::string_view quantise_name(Quantise quantise) {
  return quantise == Quantise::kInt8 ? "int8" : quantise == Quantise::kInt4 ? "int4" : "none";
}

WeightLoader::WeightLoader(Backend& backend, const Checkpoint* checkpoint, const std::vector<TensorSpec>& table,
                           const Partition& partition, StoredAs stored, PackedFiles packed)
    : backend_(backend),
      checkpoint_(checkpoint),
      partition_(partition),
      dtype_(stored.dtype),
      quantise_(stored.quantise),
      packed_(packed) {
  for (const TensorSpec& spec : table) specs_.emplace(spec.name, spec);
}

Range WeightLoader::rows_of(const TensorSpec& spec) const { return partition_.of(spec.rows, spec.shape[0]); }
Range WeightLoader::cols_of(const TensorSpec& spec) const {
  return spec.shape.size() == 2 ? partition_.of(spec.cols, spec.shape[1]) : Range{0, 1, 1};
}

std::pair<int64_t, int64_t> WeightLoader::size(std::span<const std::string> names) const {
  int64_t rows = 0, cols = 0;
  for (const std::string& name : names) {
    const auto spec = specs_.find(name);
    check(spec != specs_.end(), "a tensor is loaded that the family's table does not list");
    rows += rows_of(spec->second).padded;
    cols = cols_of(spec->second).padded;
  }
  return {rows, cols};
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
    part.rows = rows_of(spec->second);
    part.cols = cols_of(spec->second);
    part.to_row = out.rows;
    check(out.parts.empty() || out.cols == part.cols.padded, "stacked tensors have equally many columns");
    out.cols = part.cols.padded;
    out.rows += part.rows.padded;
    DType dtype = dtype_;
    if (checkpoint_ != nullptr) {
      const std::vector<int64_t> stored_shape = spec->second.stored_shape();
      part.tensor = &checkpoint_->at(spec->second.stored_name(), stored_shape);
      part.transposed = spec->second.stored.transposed;
      if (part.transposed) part.source_cols = stored_shape.back();
      if (part.tensor->quantised != nullptr) {
        part.transposed = false;
        part.source_cols = part.tensor->shape[1];
      }
      if (const Stored& stored = spec->second.stored; stored.transposed && stored.stack > 0) {
        Range& along = part.transposed ? part.cols : part.rows;  // the file's first dimension, less the stack's
        along.begin += stored.layer * shape[part.transposed ? 1 : 0];
      }
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
  if (checkpoint_ != nullptr) out.groups = common_groups(out, checkpoint_->files(), backend_);
  if (out.groups != nullptr) out.dtype = DType::kU8;
  if (checkpoint_ != nullptr) out.parts = in_one_place(out.parts);
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

// Routers choose experts by small differences, and heads rank tokens by them.
Scheme WeightLoader::scheme(std::span<const std::string> names) const {
  const bool router = names.front().ends_with(".gate.weight") || names.front().ends_with("shared_expert_gate.weight");
  if (quantise_ == Quantise::kNone || router) return scheme_of(dtype_);
  const bool layer = specs_.at(names.front()).place == Place::kLayer;
  return quantise_ == Quantise::kInt4 && layer ? Scheme::kInt4 : Scheme::kInt8;
}

void WeightLoader::matrix(std::span<const std::string> names, std::unique_ptr<Weight>& to) {
  const std::string label = fmt::format("{}", fmt::join(names, " "));
  if (packed_.from != nullptr) {
    const auto [rows, cols] = size(names);
    auto form = std::make_shared<PackedForm>(packed_.from->matrix(backend_, label, rows, cols));
    restored_.push_back([this, form, &to] {
      to = backend_.restore(std::move(*form));
      weight_bytes_ += to->bytes();
    });
    return;
  }
  if (packed_.to != nullptr) packed_.to->announce(label);
  StagingItem& staged = item(names);
  // A table of the same tensors may want their floats after all, and then there are no groups.
  staged.consumers.push_back(
      [this, &to, label, made = scheme(names),
       kept = staged.groups != nullptr ? staged.groups->scheme : Scheme::kF32](const HostMatrix& source) {
        to = backend_.pack(source, source.groups == nullptr ? made : kept);
        weight_bytes_ += to->bytes();
        if (packed_.to != nullptr) packed_.to->matrix(label, backend_.form(*to));
      });
}

// Of layers that are quantised already: their floats.
StagingItem& WeightLoader::floats(std::span<const std::string> names) {
  StagingItem& out = item(names);
  if (out.groups != nullptr) {
    out.groups = nullptr;
    out.dtype = DType::kF32;
  }
  return out;
}

void WeightLoader::table(const std::string& name, Buffer& to) { plain("table", {&name, 1}, dtype_, to); }

void WeightLoader::vector(std::span<const std::string> names, Buffer& to) { plain("vector", names, DType::kF32, to); }

void WeightLoader::plain(const char* kind, std::span<const std::string> names, DType dtype, Buffer& to) {
  const std::string label = fmt::format("{}", fmt::join(names, " "));
  if (packed_.from != nullptr) {
    const auto [rows, cols] = size(names);
    to = packed_.from->plain(backend_, kind, label, dtype, rows, cols);
    weight_bytes_ += to.bytes();
    return;
  }
  if (packed_.to != nullptr) packed_.to->announce(label);
  floats(names).consumers.push_back([this, &to, kind, label, dtype](const HostMatrix& source) {
    to = backend_.allocate(static_cast<size_t>(source.rows * source.cols) * dtype_bytes(dtype));
    weight_bytes_ += to.bytes();
    copy_converted(backend_, to, dtype, source);
    if (packed_.to != nullptr) packed_.to->plain(kind, label, dtype, {source.rows, source.cols}, to.data());
  });
}

void WeightLoader::run(const StagingOptions& options_in) {
  StagingOptions options = options_in;
  options.backend = &backend_;
  if (packed_.from != nullptr) {
    packed_.from->read(options);
    for (const auto& restore : restored_) restore();
    restored_.clear();
    return;
  }
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

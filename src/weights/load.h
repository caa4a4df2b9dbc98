// SPDX-License-Identifier: Apache-2.0
// Loads one rank's share of a checkpoint, or of a random model, into packed weights. A family first declares where each
// tensor of its table goes, then run() reads in file order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "weights/checkpoint.h"
#include "weights/packed.h"
#include "weights/spec.h"
#include "weights/staging.h"

namespace sluice {

// Products in fewer bits than their checkpoint has. kInt4 leaves the head and MoE routers at 8 and 16 bits.
enum class Quantise : uint8_t { kNone, kInt8, kInt4 };
std::string_view quantise_name(Quantise quantise);  // "none", "int8", "int4"

// How weights are held: embeddings, vectors and activations follow `dtype`, products `quantise` where that is set.
struct StoredAs {
  StoredAs(DType dtype, Quantise quantise = Quantise::kNone) : dtype(dtype), quantise(quantise) {}  // NOLINT: a dtype
  operator DType() const { return dtype; }                                                          // NOLINT: alone
  DType dtype;
  Quantise quantise;
};

// Packed weights of this rank: read in place of a checkpoint, or written besides being loaded. At most one.
struct PackedFiles {
  PackedReader* from = nullptr;
  PackedWriter* to = nullptr;
};

class WeightLoader {
 public:
  // `checkpoint` is null for random weights and packed ones; it outlives the loader, as the files of `packed` do.
  // `stored` has a dtype of f32, bf16 or f16. Throws Error where the checkpoint lacks a tensor of this rank or holds
  // another shape.
  WeightLoader(Backend& backend, const Checkpoint* checkpoint, const std::vector<TensorSpec>& table,
               const Partition& partition, StoredAs stored, PackedFiles packed = {});

  // The destinations stay where they are until run() returns. Several names stack their rows in that order; each tensor
  // is cut and padded as its row of the table says.
  void matrix(std::span<const std::string> names, std::unique_ptr<Weight>& to);  // packed product
  void table(const std::string& name, Buffer& to);                               // [rows, columns] in `dtype`
  void vector(std::span<const std::string> names, Buffer& to);                   // f32

  bool lists(const std::string& name) const { return specs_.contains(name); }  // the table does

  void run(const StagingOptions& options);
  size_t weight_bytes() const { return weight_bytes_; }  // held after run()

 private:
  StagingItem& item(std::span<const std::string> names);
  StagingItem& floats(std::span<const std::string> names);
  Range rows_of(const TensorSpec& spec) const;
  Range cols_of(const TensorSpec& spec) const;
  std::pair<int64_t, int64_t> size(std::span<const std::string> names) const;  // of the stacked share: rows, columns
  void plain(const char* kind, std::span<const std::string> names, DType dtype, Buffer& to);
  Scheme scheme(std::span<const std::string> names) const;  // of a product

  Backend& backend_;
  const Checkpoint* checkpoint_;
  std::unordered_map<std::string, TensorSpec> specs_;
  Partition partition_;
  DType dtype_;
  Quantise quantise_;
  PackedFiles packed_;
  std::vector<std::function<void()>> restored_;  // after packed files were read
  std::vector<StagingItem> items_;
  std::unordered_map<std::string, size_t> by_names_;  // a tensor that is used twice is read once
  size_t weight_bytes_ = 0;
};

// How a product of this dtype is packed where it is not quantised.
Scheme scheme_of(DType dtype);

// Tensors of the checkpoint that the table does not ask for, less those whose names end in one of `ignored`.
std::vector<std::string> unused_tensors(const Checkpoint& checkpoint, const std::vector<TensorSpec>& table,
                                        std::span<const std::string> ignored);

}  // namespace sluice

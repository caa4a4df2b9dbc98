// SPDX-License-Identifier: Apache-2.0
// A family's tensors as data: name, shape, which dimension is split over tensor-parallel ranks and by what, and which
// pipeline stage owns it. Loader and tests loop over the same table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

// What a dimension runs over, where that is split between tp ranks.
// kHeads: one element per query head; kFeedForwardPairs: two for each of kFeedForward, side by side.
enum class Split : uint8_t { kWhole, kQueryHeads, kKvHeads, kHeads, kFeedForward, kFeedForwardPairs, kVocab };

// Owner among pipeline stages.
enum class Place : uint8_t { kEmbedding, kLayer, kHead };

enum class Init : uint8_t { kUniform, kOne };  // random weights: uniform with variance 1 / columns, or ones

// How a checkpoint holds a tensor where it does not hold it alone and as [out, in]. Loading undoes it. With `run`, this
// one's output features come in runs of that many, which begin `stride` apart: q, k and v of each head or group of
// heads beside each other.
struct Stored {
  bool transposed = false;  // the file's matrix is [in, out]
  std::string name{};       // of the tensor that holds this one among others; empty: the tensor's own
  int64_t first = 0;        // output feature of that tensor with which this one begins
  int64_t outputs = 0;      // output features of that tensor; 0: no others
  int64_t run = 0, stride = 0;
  // Matrices that the file's tensor has one below the other, in three dimensions; 0: it has two. Vectors: in two, not
  // one. `first` says where this one begins, or, where it is transposed, `layer` which of them it is.
  int64_t stack = 0, layer = 0;
};

struct TensorSpec {
  std::string name;            // in the checkpoint; unique in the table
  std::vector<int64_t> shape;  // [out, in], or [n]
  Split rows = Split::kWhole;  // of shape[0]
  Split cols = Split::kWhole;  // of shape[1]
  Place place = Place::kLayer;
  int64_t layer = -1;  // for kLayer
  Init init = Init::kUniform;
  Stored stored{};  // in the checkpoint, where that differs

  int64_t elements() const;
  const std::string& stored_name() const { return stored.name.empty() ? name : stored.name; }
  std::vector<int64_t> stored_shape() const;  // of that tensor
};

// The part of one dimension that a rank holds: [begin, begin + count) of the whole, then zeros up to `padded`. `padded`
// is equal on all ranks.
struct Range {
  int64_t begin = 0, count = 0, padded = 0;
};

struct SplitSizes {
  int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0, d_ff = 0, vocab = 0;
};

// One tp rank's share. KV heads are split where there are enough and copied to tp / n_kv_heads ranks where there are
// not; what does not divide is padded with zero heads, columns or vocabulary rows, which leaves results exact.
struct Partition {
  Partition(const SplitSizes& sizes, int tp_rank, int tp_size);

  Range heads, kv_heads;  // in heads; padded heads are a multiple of padded kv_heads
  Range d_ff, vocab;      // in elements
  int64_t head_dim = 0;

  int tp_rank = 0, tp_size = 1;

  Range of(Split split, int64_t whole) const;  // in elements of a dimension of length `whole`
};

// Layers of a pipeline stage; earlier stages take what does not divide, since the last one also has the head.
struct LayerRange {
  int64_t begin = 0, count = 0;
};
LayerRange stage_layers(int64_t n_layers, int stage, int stages);  // throws Error with more stages than layers

}  // namespace sluice

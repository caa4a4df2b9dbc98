// SPDX-License-Identifier: Apache-2.0
// What the engine knows of a model: sizes, cache groups, and one forward pass of this rank's share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace sluice {

class PackedWriter;

struct ModelInfo {
  std::string family;         // "llama"
  std::string name;           // folder name or shape name
  int64_t vocab = 0;          // tokens that can be sampled
  int64_t max_positions = 0;  // context length that the checkpoint supports
  int64_t n_layers = 0, d_model = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, d_ff = 0;
  int64_t parameters = 0;  // of the whole model
  int64_t linear_parameters =
      0;  // read by one decode step over all ranks: layers' products plus the head (docs/performance.md)
  size_t weight_bytes = 0;        // held by this rank
  size_t read_bytes = 0;          // read by this rank in one decode step: packed products plus the head
  size_t kv_bytes_per_token = 0;  // of this rank
  std::string dtype;              // of the weights as stored here
  // "int8", "int4", "int4 (gptq)" or "fp8 (fbgemm_fp8)" where the products are, else empty. Before it is loaded a model
  // of fp8 says so, and a CPU then holds floats.
  std::string quantised;
  std::vector<int32_t> eos;  // from generation_config.json, else config.json
  int32_t bos = -1;
  int32_t decoder_start = -1;  // of a model with an encoder, which the prompt goes to: the decoder's first token
  // Sequences of more tokens than this, where it is not 0, are rotated by their length: their prefixes serve no others.
  int64_t varies_beyond = 0;
  bool recomputes = false;  // and one that grows beyond it is computed again from its first token
};

// A kind of cache: how its blocks grow with the sequence.
struct CacheGroupSpec {
  enum class Growth { kPerToken, kWindow, kFixed };
  std::string name;  // "self", "window", "cross"; kFixed holds the encoder's prompt
  Growth growth = Growth::kPerToken;
  size_t bytes_per_token = 0;  // on this rank, all its layers of the group
  int64_t window = 0;          // kWindow: keys that are needed
};

// Sizes fixed at start, equal on all ranks.
struct RunLimits {
  int64_t block_size = 16;      // tokens
  std::vector<int64_t> blocks;  // per cache group
  int64_t max_rows = 0;         // rows of one step (token budget)
  int64_t max_seqs = 0;         // sequences of one step
  int64_t max_logits = 0;       // rows with logits of one step
  int64_t max_context = 0;      // tokens of one sequence
  int64_t max_encoder = 0;      // tokens of one encoder prompt, and of all in a step; 0: no encoder
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;
  virtual const std::vector<CacheGroupSpec>& cache_groups() const = 0;
  // Device memory that allocate() takes beside the cache, which `blocks` of the limits are for.
  virtual size_t step_bytes(const RunLimits& limits) = 0;
  // Called once: cache memory and the scratch arena, sized by a dry run. Throws Error with the numbers when memory does
  // not suffice.
  virtual void allocate(const RunLimits& limits) = 0;
  // Runs this rank's stage. The first stage embeds batch.tokens, a later one receives hidden states from the stage
  // before; every stage but the last sends its own on. On the last stage returns f32 logits [batch.logits,
  // info().vocab], gathered over tp (valid until the next call); elsewhere an empty tensor. Neither allocates nor
  // waits, except in the communicator.
  virtual Tensor forward(const BatchView& batch) = 0;
  // Copies whole blocks of one group in every local layer; pairs i32 [n, 2] of (from, to).
  virtual void copy_blocks(int group, const Tensor& pairs) = 0;
};

struct ModelSource {
  std::filesystem::path folder;  // a checkpoint (weights/checkpoint.h), or empty with
  std::string random_shape;      // a named shape, filled with random weights
  std::string dtype = "auto";    // "auto" takes the checkpoint's
  std::string quantize;  // "int8" or "int4": products are rounded while loading; "gptq", "awq": they are already
  int64_t load_threads = 4;
  bool quiet = false;
  // Experts over tp ranks: each "split" over all, whole ones "spread", or "auto": spread where shares would be narrow.
  std::string experts = "auto";
};

// The config alone: architecture check, sizes for --tp and --pp defaults. Throws Error naming what is unsupported.
ModelInfo read_model_info(const ModelSource& source);
// Loads this rank's bytes, packed by the backend; logs progress with GB/s. Throws Error.
std::unique_ptr<Model> load_model(const ModelSource& source, Backend& backend, Groups& groups);
// Loads this rank's share and writes it to `file`, packed. Throws Error where the backend keeps no packed weights.
void pack_model(const ModelSource& source, Backend& backend, Groups& groups, PackedWriter& file);
// Names for --random-init.
std::vector<std::string> random_shapes();
// Architectures of all families, sorted.
std::vector<std::string> model_families();
// For `sluice info --families`: families by name with the architectures they read.
struct FamilyNames {
  std::string name;
  std::vector<std::string> architectures;
};
std::vector<FamilyNames> family_names();

}  // namespace sluice

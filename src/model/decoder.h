// SPDX-License-Identifier: Apache-2.0
// What all decoder families share: sizes, this rank's part of them, embedding and head, cache, scratch memory, and the
// way hidden states pass from stage to stage. A family adds its config, its table of tensors and forward().
#pragma once

#include <string>
#include <vector>

#include "model/family.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/module_loader.h"
#include "model/norm.h"
#include "model/rope.h"
#include "model/tensor_table.h"

namespace sluice {

inline constexpr int64_t kMany = int64_t{1} << 31;  // upper bound of sizes in configs

// A family's config derives from it.
struct DecoderSizes {
  int64_t vocab = 0, d_model = 0, d_ff = 0, n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, max_positions = 0;
  int64_t ff_products = 1;       // matrices stacked in the MLP's first product: 2 where gate and up are, 0: no MLP
  bool tied = false;             // the head is the embedding
  std::vector<int64_t> windows;  // keys that each layer sees, 0: all; empty: all layers see all
};

// Fills the sizes of the whole model.
void describe_decoder(const DecoderSizes& sizes, const std::vector<TensorSpec>& table, ModelInfo& info);

// hidden_size / num_attention_heads. Refuses `key` where that is not whole.
int64_t even_head_dim(const Config& config, const std::string& key, int64_t d_model, int64_t n_heads);
// The first of these keys that is there.
int64_t read_size(const Config& config, std::initializer_list<const char*> keys, int64_t fallback, int64_t high);

// A table of rotations, and which of its rows each row of a step takes: its position's, unless `rows` says otherwise.
struct RopeView {
  RopeView(const Tensor& table = {}, const Tensor& rows = {}) : table(table), rows(rows) {}
  Tensor table;  // f32 [.., rotary]; empty: nothing is rotated
  Tensor rows;   // i32 [T], or empty
};

// Table of cosines and sines on the device, as long as the run's longest sequence; where the rotation varies with the
// length of the sequence, only its frequencies, from which every step makes the rows that it needs.
struct RopeTable {
  RopeConfig config;
  Buffer memory;  // f32 [positions, rotary], or [2, rotary / 2]
  Buffer order;   // i32 [max rows]: 0, 1, 2, ...; where it varies
  Tensor step;    // f32 [T, rotary], where it varies
  int64_t positions = 0;

  size_t bytes(int64_t n) const { return static_cast<size_t>(n * config.rotary) * sizeof(float); }
  // `max_rows` of a step are needed where the rotation varies.
  void allocate(Backend& backend, int64_t n, int64_t max_rows = 0);
  Tensor view() const { return memory.view(DType::kF32, {positions, config.rotary}); }
  // Scratch of a step, then what it rotates by.
  void take(Arena& arena, int64_t rows);
  RopeView begin(Backend& backend, const BatchView& batch) const;
};

class DecoderModel : public Model {
 public:
  const ModelInfo& info() const override { return info_; }
  const std::vector<CacheGroupSpec>& cache_groups() const override { return cache_layout_.groups; }
  size_t step_bytes(const RunLimits& limits) final;
  void allocate(const RunLimits& limits) final;
  void copy_blocks(int group, const Tensor& pairs) override { cache_.copy_blocks(backend_, group, pairs); }

 protected:
  DecoderModel(LoadContext& context, const DecoderSizes& sizes);

  // Scratch of one step on this rank; what lives at different times shares memory.
  struct Activations {
    Tensor x, h, out;        // [T, H]: residual stream, normed input, output of a block
    Tensor pending;          // a block's output that the stream lacks: the next norm adds it
    Tensor qkv, attended;    // [T, (heads + 2 kv heads) * hd], [T, heads * hd]
    Tensor up, ff;           // [T, ff_products * F], [T, F]; one memory where ff_products is 1
    Tensor last, last_norm;  // [logits, H]
  };

  // Loading. A claimed tie that the files contradict counts as none; the names say what serves as what.
  TiedNames tie_head(const LoadContext& context, const std::string& embed, const std::string& head);
  // `table` with the tensor `embed` called as the names say. Warns of unknown tensors, except those that end in one of
  // `ignored`.
  std::vector<TensorSpec> prepare(const LoadContext& context, std::vector<TensorSpec> table, const std::string& embed,
                                  const TiedNames& names, std::vector<std::string> ignored = {}) const;
  void load_ends(ModuleLoader& load, const TiedNames& names);  // embedding and head, where this stage has them
  int64_t global_layer(size_t local) const { return range_.begin + static_cast<int64_t>(local); }

  // Memory beyond Activations and the cache, where a family needs it.
  virtual void take_more(Arena&, int64_t /*rows*/, int64_t /*logits*/) {}  // scratch; called in every step too
  virtual void take_ff(Arena&, int64_t /*rows*/) {}  // likewise, beside up and ff; attention uses the same memory
  virtual size_t table_bytes(int64_t /*positions*/) const { return 0; }
  virtual void allocate_tables(int64_t /*positions*/) {}

  size_t scratch_bytes(const RunLimits& limits);

  // Verbs of forward(), in the order of use.
  Activations begin(const BatchView& batch);
  void embed(const Tensor& out, const BatchView& batch) { embedding_(backend_, groups_, out, batch.tokens); }
  bool receive(const Activations& a) const;           // x of the stage before; false on the first stage
  void norm(const Norm& norm, Activations& a) const;  // h = norm(x), pending added to x first
  AttentionShape attention_shape() const;             // of this rank, scale 1 / sqrt(head_dim)
  // Rotates q and k of a.qkv (an empty table: not), caches k and v, and attends: a.qkv -> a.attended.
  void attend(const Activations& a, const BatchView& batch, size_t layer, AttentionShape shape,
              const RopeView& rope = {});
  void reduce(const Tensor& x) const { sluice::reduce(groups_, x); }
  // Completes x and passes it on, or gathers a.last on the last stage; false where there are no logits to compute, and
  // forward() returns no_logits().
  bool finish(Activations& a, const BatchView& batch) const;
  Tensor no_logits() const;
  Tensor logits(const Tensor& x) { return head_(backend_, groups_, arena_, x); }  // x [logits, H]

  DecoderSizes sizes_;
  Backend& backend_;
  Groups& groups_;
  ModelInfo info_;
  Partition partition_;
  DType stored_, activation_, cache_dtype_;
  LayerRange range_;  // of this stage
  CacheLayout cache_layout_;
  VocabEmbedding embedding_;
  VocabLinear head_;
  KvCache cache_;
  Arena arena_;
  RunLimits limits_;  // since allocate()

 private:
  Activations take(Arena& arena, int64_t rows, int64_t logits);
};

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// The operations a model is made of, at the grain of one fused kernel. One object per rank; all calls from one thread,
// executed in order.
//
// Shapes: T rows (tokens) of a step, H model width, V vocabulary of this rank. Activations are 2-D [T, width] in
// activation_dtype(). Numbers that vary per step live in device tensors (BatchView); an op sees only bucket sizes on
// the host, allocates nothing and does not wait, so that a step can be captured into a graph. Shapes that do not fit
// are our bug: check() aborts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "sample/params.h"
#include "tensor/tensor.h"

namespace sluice {

// What the whole numbers of a quantised matrix mean: element [r][k] is (q - zero) * scale of its row and group, a group
// being `group` columns in a row's order.
struct HostGroups {
  int64_t group = 0;               // columns, the last group may be short
  const float* scale = nullptr;    // [rows][groups]
  const float* zero = nullptr;     // [rows][groups], whole numbers; not looked at where numbers are e4m3
  const int32_t* order = nullptr;  // [cols]: the input feature that column k multiplies; null: k
};

// A slice of a checkpoint in host memory: rows are output features, columns input features.
struct HostMatrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // kU8 with groups
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0;              // elements
  const HostGroups* groups = nullptr;  // of a matrix that is quantised already
};

// How a matrix is stored by pack(). Quantisation adds schemes; models never name one.
//   kInt8: whole numbers of 8 bits, one scale per row.
//   kInt4: whole numbers of 4 bits, a scale and a zero for every kInt4Group columns of a row, or as `groups` has them.
// Both are made from float matrices, or take those of `groups` where they fit: one group per row and zeros of 128 for
// kInt8; numbers below 16 and groups of whole multiples of 32 columns for kInt4. Two are of `groups` alone:
//   kInt8Groups: whole numbers of 8 bits, groups as kInt4.
//   kFp8: numbers are e4m3, groups of whole multiples of 16 columns with a scale each. Where packs() says so.
enum class Scheme { kF32, kBF16, kF16, kInt8, kInt4, kInt8Groups, kFp8 };
inline constexpr int64_t kInt4Group = 64;

// A packed matrix as files keep it: its arrays, cut as the backend wants them.
struct PackedPart {
  std::vector<int64_t> shape;  // row-major; empty: the matrix has no such part
  DType dtype = DType::kU8;
  const void* data = nullptr;  // form(): in host memory of the weight
  Buffer memory{};             // restore(): the same, in memory of allocate()
  size_t bytes() const;
};
struct PackedForm {
  Scheme scheme = Scheme::kF32;
  int64_t rows = 0, cols = 0;
  std::vector<PackedPart> parts;
};

// A packed matrix, opaque to models.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows() const { return rows_; }   // output features
  int64_t cols() const { return cols_; }   // input features
  size_t bytes() const { return bytes_; }  // read by one product
 protected:
  Weight(int64_t rows, int64_t cols, size_t bytes) : rows_(rows), cols_(cols), bytes_(bytes) {}
  int64_t rows_, cols_;
  size_t bytes_;
};

enum class Activation { kSilu, kGeluErf, kGeluTanh, kRelu };

// One cache group as a step sees it.
struct CacheIndex {
  Tensor slots;        // i32 [rows]: block * block_size + offset where the row's K and V go; -1 for padding
  Tensor block_table;  // i32 [seqs, max_blocks]: block ids of the sequence, in order
  Tensor context;      // i32 [seqs]: keys of the sequence in this group, where that is not BatchView::context
};

// One step as the device sees it. Padding rows have token 0 and slot -1; padding sequences have no rows.
struct BatchView {
  static constexpr int kMaxGroups = 4;
  int64_t rows = 0, seqs = 0, logits = 0;  // bucket sizes, padding included
  Tensor tokens;                           // i32 [rows]
  Tensor positions;                        // i32 [rows]
  Tensor first_row;                        // i32 [seqs + 1]: rows of sequence s are first_row[s] .. first_row[s + 1]
  Tensor context;                          // i32 [seqs]: keys of the sequence after this step, its own rows included
  Tensor logits_rows;                      // i32 [logits]: rows whose logits are wanted
  Tensor lengths;                          // i32 [rows]: tokens that the row's sequence was begun with
  CacheIndex cache[kMaxGroups];
  bool decode_only = false;  // no sequence has more than one row
  // Prompts of an encoder, computed before the rows above; null where there are none. Its sequences are whole.
  const BatchView* encoder = nullptr;
};

struct AttentionShape {
  int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  float scale = 1.0f;
  int64_t window = 0;   // keys with query - window < key <= query; 0 means all
  Tensor alibi_slopes;  // f32 [n_heads], or empty: slope * (key - query) is added to scaled scores
  float soft_cap = 0;   // scores become cap * tanh(score / cap) before they are masked; 0: they stay
  // ALiBi in two roundings, as Falcon has it: bf16(slope * key) * scale is added instead. The slopes are bf16 values.
  bool alibi_rounded = false;
  // f32 [n_heads, 2 * reach + 1], or empty: what is added to scaled scores by key - query, which is clamped to
  // [-reach, reach].
  Tensor distance_bias;
  // f32 [n_heads], or empty: one more score of each row's softmax, which gives no value: the weights of the keys sum to
  // less than 1. It is neither scaled nor capped.
  Tensor sinks;
  bool causal = true;  // false: a row sees all keys that its sequence has in the cache group
};

// Keys and values of one layer: [blocks, n_kv_heads, block_size, head_dim] each, in cache_dtype().
struct CacheLayer {
  Tensor k, v;
};

struct Epilogue {
  Tensor bias;      // f32 [out] or empty
  Tensor residual;  // [T, out] or empty; added last; may be the output itself
};

// Which experts a row goes to: the top_k of its softmax, ties to the lower id.
struct RouterRule {
  int64_t top_k = 0;
  bool renormalise = false;  // weights of the chosen sum to 1; otherwise they are shares of all experts
};

// Rows sorted by expert. A place is a row at one of its experts; the places of an expert are adjacent, in ascending
// order of rows. P = T * top_k places, of which the experts held here fill the first.
struct Routing {
  int64_t first_expert = 0;  // experts [first_expert, first_expert + offsets.dim(0) - 1) are held here
  Tensor offsets;            // i32 [local + 1]: places of local expert e are offsets[e] .. offsets[e + 1]
  Tensor rows;               // i32 [P]: the row of each place; 0 where the place is not in use
  Tensor places;             // i32 [T, top_k]: places of a row in ascending order of experts; -1: held elsewhere
  Tensor weights;            // f32 [T, top_k]: of those
};

// Experts' matrices of one layer, all of one shape and scheme.
class WeightGroup {
 public:
  explicit WeightGroup(std::vector<std::unique_ptr<Weight>> members) : members_(std::move(members)) {}
  virtual ~WeightGroup() = default;
  int64_t size() const { return static_cast<int64_t>(members_.size()); }
  const Weight& member(int64_t i) const { return *members_[static_cast<size_t>(i)]; }

 protected:
  std::vector<std::unique_ptr<Weight>> members_;
};

// Frequencies of rotary positions that depend on how long the sequence is.
struct LengthRotation {
  Tensor frequencies;    // f32 [2, rotary / 2]: up to `original` tokens, and beyond where growth is 0
  int64_t original = 0;  // tokens
  float scale = 1.0f;    // of cosines and sines
  // Beyond, for n tokens: (theta * (factor * n / original - (factor - 1)) ^ growth) ^ (-2 i / rotary).
  float theta = 0, factor = 0, growth = 0;
};

// Resident sampling state: parameters, history, and the last token of each slot.
class SamplerState {
 public:
  virtual ~SamplerState() = default;
  virtual Tensor last_tokens() const = 0;  // i32 [slots]
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "cpu", "cuda"
  virtual std::string describe() const = 0;   // device, threads, instruction set, for the start line
  // The dtype of hidden states for weights stored by `scheme`: f32 on the CPU, the weights' own on a GPU.
  virtual DType activation_dtype(Scheme scheme) const = 0;
  virtual DType cache_dtype(Scheme scheme) const = 0;

  // Memory.
  virtual Buffer allocate(size_t bytes) = 0;  // device memory, zeroed; throws Error when there is not enough
  virtual size_t free_bytes() const = 0;
  // Contiguous host rows into rows of the device, which may lie apart. Ordered before later ops; host may be reused at
  // return.
  virtual void copy_in(const Tensor& device, const void* host) = 0;
  virtual void copy_out(void* host, const Tensor& device) = 0;  // waits for earlier ops
  // The same in two halves: the copy is queued after the ops so far, and the oldest one that is queued is waited for.
  // At most kCopiesOut are under way.
  static constexpr int kCopiesOut = 8;
  virtual void start_copy_out(const Tensor& device) = 0;
  virtual void finish_copy_out(void* host) = 0;
  virtual std::unique_ptr<Weight> pack(const HostMatrix& source, Scheme scheme) = 0;
  virtual bool packs(Scheme scheme) const { return scheme != Scheme::kFp8; }
  // Packed matrices in files. packing() names how they are packed and changes with it; where it is empty this backend
  // takes none and restore() aborts. form() is of those that write them.
  virtual std::string_view packing() const { return {}; }
  virtual bool host_memory() const { return false; }    // allocate() gives memory that files can be read into
  virtual PackedForm form(const Weight& weight) const;  // as long as the weight lives
  // The weight whose form this is. Throws Error where the parts do not fit together.
  virtual std::unique_ptr<Weight> restore(PackedForm form);

  // out[t] = table[ids[t] - first_id] where that row exists here, else 0. table [V, H].
  virtual void embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) = 0;
  // RMS norm as Llama (reference/models variant A: rounded to the activation dtype, then times weight). weight [H] f32.
  // With `residual` [T, H]: residual += x first, and the norm is of the sum; x is left alone. Without: norm of x.
  virtual void rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                        float eps) = 0;
  // torch semantics: biased variance, eps inside the root. bias may be empty. residual as above.
  virtual void layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight,
                          const Tensor& bias, float eps) = 0;
  // out [T, weight.rows()] = x [T, weight.cols()] * weight^T, then the epilogue. A row's result does not depend on T.
  virtual void linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) = 0;
  // Rotates the first `rotary` = 2 * table columns / 2 elements of each head of q [T, nh*hd] and k [T, nkv*hd] in
  // place, half-split pairing, with table f32 [positions, rotary] holding cos then sin (an empty table rotates
  // nothing); then writes k and v to the cache at batch.cache[group].slots.
  virtual void rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                              const BatchView& batch, int group, const AttentionShape& shape,
                              const CacheLayer& cache) = 0;
  // out [T, nh*hd]: causal attention of each row over its sequence's cached keys. Prefill and decode rows in one call.
  virtual void attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group,
                         const AttentionShape& shape, const CacheLayer& cache) = 0;
  // rope_and_cache with rows `positions` of the table, then attention. What q, k and v hold afterwards is not said.
  virtual void attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table,
                      const Tensor& positions, const BatchView& batch, int group, const AttentionShape& shape,
                      const CacheLayer& cache);
  // out [T, F] = activation(gate_up[:, 0:F]) * gate_up[:, F:2F].
  virtual void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) = 0;
  virtual void activation(const Tensor& inout, Activation activation) = 0;
  // linear of rms_norm(x, weight `norm`, eps), or of x where `norm` is empty. With `gate` the product's first half
  // gates its second, as gated_activation does; without, `product` is `out`. `h` [T, cols] and `product` [T, rows] are
  // scratch, which stays unused where one kernel does it all.
  virtual void fused_linear(const Tensor& out, const Tensor& x, const Tensor& norm, float eps, const Weight& weight,
                            const Epilogue& epilogue, const Activation* gate, const Tensor& h, const Tensor& product);
  // Multiplies the columns of `weight` by `norm` f32 [cols]: fused_linear of it then takes a norm of ones, and what is
  // between the norm and the product may go. False where this backend gains nothing by it, and nothing was done.
  virtual bool fold_norm(Weight& weight, const Tensor& norm) { return false; }
  virtual void add(const Tensor& inout, const Tensor& other) = 0;
  // out[t] += bias broadcast over rows.
  virtual void add_bias(const Tensor& inout, const Tensor& bias) = 0;
  virtual void gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) = 0;
  // Of some families alone.
  virtual void scale(const Tensor& inout, float factor) = 0;
  // RMS norm of each head of [T, n * weight.dim(0)] by itself.
  virtual void head_norm(const Tensor& inout, const Tensor& weight, float eps) = 0;
  // inout = cap * tanh(inout / cap).
  virtual void soft_cap(const Tensor& inout, float cap) = 0;
  // out f32 [T, rotary]: cosines, then sines of positions[t] in a sequence of max(lengths[t], positions[t] + 1) tokens.
  virtual void rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                         const LengthRotation& rule) = 0;
  virtual std::unique_ptr<WeightGroup> group(std::vector<std::unique_ptr<Weight>> members);
  // logits f32 [T, experts].
  virtual void route(const Routing& out, const Tensor& logits, const RouterRule& rule) = 0;
  // out[p] = x[p] * expert^T + bias[expert] for the places p of each local expert; rows of no place are left alone.
  // x [P, cols], bias f32 [experts here, rows] or empty.
  virtual void grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                            const Tensor& bias) = 0;
  // out [T, F] = (clamp(up, -7, 7) + 1) * gate * sigmoid(1.702 * gate) with gate at most 7, where gates are the even
  // columns of pairs [T, 2 F] and ups the odd ones (transformers, models/gpt_oss).
  virtual void clamped_swiglu(const Tensor& out, const Tensor& pairs) = 0;
  // out[t] = sum of weights[t, j] * x[places[t, j]] over j in ascending order.
  virtual void combine(const Tensor& out, const Tensor& x, const Routing& routing) = 0;
  // out[t] += sigmoid(gate[t, 0]) * x[t].
  virtual void add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) = 0;

  // Copies whole cache blocks: pairs i32 [n, 2] of (from, to), over all blocks' bytes of `cache` [blocks, ...].
  virtual void copy_blocks(const Tensor& cache, const Tensor& pairs) = 0;

  // Sampling.
  virtual std::unique_ptr<SamplerState> make_sampler(int64_t slots, int64_t vocab) = 0;
  // Replaces a slot's parameters; `history` are the ids that count as prompt and `n_output` of its tail as output,
  // given where params.needs_history().
  virtual void set_slot(SamplerState& state, int64_t slot, const SamplingParams& params, const int32_t* history,
                        int64_t n_history, int64_t n_output) = 0;
  // Tokens that the slot's draws may give from now on: bit i % 32 of words[i / 32] allows token i; nullptr allows all,
  // as after set_slot(). The words are copied before it returns. Where takes_masks() is false neither masks nor the
  // fields of SamplingParams after `logit_bias` are followed, and the engine refuses them.
  virtual bool takes_masks() const { return false; }
  virtual void set_mask(SamplerState&, int64_t, const uint32_t*) { check(false, "this backend takes no token masks"); }
  // tokens[t] = last token of slots[t] where tokens[t] < 0. Both i32 [rows].
  virtual void resolve_tokens(SamplerState& state, const Tensor& tokens, const Tensor& slots) = 0;
  // rows i32 [n, 4]: (row of logits, -1 for padding; slot; position of the new token; target: -1 samples a token, the
  // slot's last from then on and part of its history; >= 0 is scored; -2 - k: best_of_row() from rank
  // k * kMaxTopLogprobs). logits f32 [.., vocab], destroyed. out: u8 [n, sizeof(SampledToken)], padding stays.
  virtual void sample(SamplerState& state, const Tensor& out, const Tensor& logits, const Tensor& rows) = 0;

  // Loading. Host memory that copies leave fast: page-locked where the device is another one. A source in it may be
  // reused once wait_copies(mark_copies()) has returned, any other at once.
  virtual Buffer allocate_staging(size_t bytes);
  virtual uint64_t mark_copies() { return 0; }
  virtual void wait_copies(uint64_t mark) {}
  // copy_in with conversion by the device; false where it has none, and nothing was done.
  virtual bool copy_in_converted(const Tensor& device, const void* host, DType from) { return false; }

  // Rows of a step beyond which the time per row falls no more; 0: it always does.
  virtual int64_t enough_rows() const { return 0; }

  // Steps. Where asynchronous(), ops are queued and return at once; the host prepares the next step meanwhile.
  virtual bool asynchronous() const { return false; }
  // Rows that a step of `rows` sequences with one row each is padded to, so that few shapes cover all steps. `rows`
  // itself where padding buys nothing.
  virtual int64_t decode_bucket(int64_t rows) const { return rows; }
  // Runs `body`, the ops of one step. Equal keys mean equal ops with equal sizes and addresses: what was queued under a
  // key before may be replayed instead. 0: the body always runs.
  virtual void run_step(uint64_t key, const std::function<void()>& body) { body(); }
  // What run_step has recorded goes: before the memory that it names, and before the communicators whose calls it
  // holds.
  virtual void forget_steps() {}

  // Best GB/s of reading `bytes` of memory once with this backend's threads: the limit that decode is compared with.
  virtual double probe_read_gbps(size_t bytes) = 0;
};

struct CpuOptions {
  int threads = 0;           // 0: CPUs of the affinity mask divided by `local_ranks`
  int local_ranks = 1;       // ranks that share the mask
  std::string isa = "auto";  // "auto" or "avx2": the widest instructions to use
};
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace sluice

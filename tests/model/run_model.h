// SPDX-License-Identifier: Apache-2.0
// Runs a Model without engine or scheduler: batches made by hand, cache blocks scattered on purpose.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "comm/communicator.h"
#include "comm/thread_groups.h"
#include "model/model.h"
#include "places.h"
#include "weights/checkpoint.h"
#include "weights/convert.h"
#include "weights/safetensors.h"
#include "weights/write.h"

namespace sluice::test {

using MakeBackend = std::unique_ptr<Backend> (*)();
using MakeGroups = Groups (*)(Groups, Backend&);  // of the groups between threads

// Rows that enter a step for one sequence, after those of earlier steps.
struct Chunk {
  int64_t sequence;
  std::vector<int32_t> tokens;
};

class ModelRunner {
 public:
  static constexpr int64_t kBlockSize = 16, kMaxContext = 160, kMaxSeqs = 4, kMaxRows = 256;
  static constexpr int64_t kBlocksPerSequence = kMaxContext / kBlockSize;

  // `encoder` is the prompt of an encoder, the same for all sequences; each passes it before its first rows.
  ModelRunner(Model& model, Backend& backend, std::vector<int32_t> encoder = {})
      : model_(model),
        backend_(backend),
        lengths_(kMaxSeqs, 0),
        begun_(kMaxSeqs, 0),
        history_(kMaxSeqs),
        encoder_(std::move(encoder)),
        encoded_(kMaxSeqs, encoder_.empty()) {
    RunLimits limits;
    limits.block_size = kBlockSize;
    limits.blocks.assign(model.cache_groups().size(), kBlocksPerSequence * kMaxSeqs);
    limits.max_rows = limits.max_logits = kMaxRows;
    limits.max_seqs = kMaxSeqs;
    limits.max_context = kMaxContext;
    limits.max_encoder = encoder_.empty() ? 0 : kMaxRows;
    model.allocate(limits);
  }

  // Blocks of the sequences interleave, and those of one sequence run backwards.
  static int32_t block(int64_t sequence, int64_t index) {
    return static_cast<int32_t>((kBlocksPerSequence - 1 - index) * kMaxSeqs + sequence);
  }

  // The sequence's first rows, in whatever chunks, are the beginning of so many tokens.
  void announce(int64_t sequence, size_t tokens) {
    begun_[static_cast<size_t>(sequence)] = static_cast<int32_t>(tokens);
  }

  // One step; logits of every row [rows, vocab] on the last stage, empty elsewhere. `padding` rows and one padding
  // sequence fill the bucket.
  std::vector<float> step(const std::vector<Chunk>& chunks, int64_t padding = 0) {
    for (const Chunk& chunk : chunks) {
      if (const auto again = begin_again(chunk)) return *again;
    }
    buffers_.clear();
    for (const Chunk& chunk : chunks) encode(chunk.sequence);
    std::vector<int32_t> lengths, tokens, positions, slots, first_row{0}, context, table, wanted;
    for (const Chunk& chunk : chunks) {
      int64_t& length = lengths_[static_cast<size_t>(chunk.sequence)];
      int32_t& begun = begun_[static_cast<size_t>(chunk.sequence)];
      if (length == 0) begun = std::max(begun, static_cast<int32_t>(chunk.tokens.size()));
      for (const int32_t token : chunk.tokens) {
        check(length < kMaxContext, "the sequence fits the runner");
        wanted.push_back(static_cast<int32_t>(tokens.size()));
        history_[static_cast<size_t>(chunk.sequence)].push_back(token);
        lengths.push_back(begun);
        tokens.push_back(token);
        positions.push_back(static_cast<int32_t>(length));
        slots.push_back(
            static_cast<int32_t>(block(chunk.sequence, length / kBlockSize) * kBlockSize + length % kBlockSize));
        ++length;
      }
      first_row.push_back(static_cast<int32_t>(tokens.size()));
      context.push_back(static_cast<int32_t>(length));
      for (int64_t i = 0; i < kBlocksPerSequence; ++i) table.push_back(block(chunk.sequence, i));
    }
    const int64_t rows = static_cast<int64_t>(tokens.size());
    if (padding > 0) {
      tokens.resize(static_cast<size_t>(rows + padding), 0);
      positions.resize(tokens.size(), 0);
      lengths.resize(tokens.size(), 0);
      slots.resize(tokens.size(), -1);
      first_row.push_back(static_cast<int32_t>(rows));
      context.push_back(0);
      table.resize(table.size() + kBlocksPerSequence, 0);
    }

    BatchView batch;
    batch.rows = static_cast<int64_t>(tokens.size());
    batch.seqs = static_cast<int64_t>(context.size());
    batch.logits = rows;
    batch.tokens = upload(tokens);
    batch.positions = upload(positions);
    batch.first_row = upload(first_row);
    batch.context = upload(context);
    batch.logits_rows = upload(wanted);
    batch.lengths = upload(lengths);
    for (size_t g = 0; g < model_.cache_groups().size(); ++g) {
      const bool fixed = model_.cache_groups()[g].growth == CacheGroupSpec::Growth::kFixed;
      batch.cache[g].slots = upload(fixed ? std::vector<int32_t>(slots.size(), -1) : slots);
      batch.cache[g].block_table = upload(table).reshaped({batch.seqs, kBlocksPerSequence});
      if (fixed)
        batch.cache[g].context = upload(std::vector<int32_t>(context.size(), static_cast<int32_t>(encoder_.size())));
    }
    const Tensor logits = model_.forward(batch);
    if (!logits) return {};
    check(logits.dim(0) == rows && logits.dim(1) == model_.info().vocab, "logits are [rows, vocab]");
    std::vector<float> out(static_cast<size_t>(logits.elements()));
    backend_.copy_out(out.data(), logits);
    return out;
  }

  // Sequence `to` continues from a copy of all blocks of `from`.
  void fork(int64_t from, int64_t to) {
    std::vector<int32_t> pairs;
    for (int64_t i = 0; i < kBlocksPerSequence; ++i) {
      pairs.push_back(block(from, i));
      pairs.push_back(block(to, i));
    }
    for (size_t g = 0; g < model_.cache_groups().size(); ++g)
      model_.copy_blocks(static_cast<int>(g), upload(pairs).reshaped({kBlocksPerSequence, 2}));
    lengths_[static_cast<size_t>(to)] = lengths_[static_cast<size_t>(from)];
    encoded_[static_cast<size_t>(to)] = encoded_[static_cast<size_t>(from)];
    begun_[static_cast<size_t>(to)] = begun_[static_cast<size_t>(from)];
    history_[static_cast<size_t>(to)] = history_[static_cast<size_t>(from)];
  }

 private:
  // A token with which the sequence grows beyond what the model rotates alike: as the scheduler does, all its tokens
  // are computed again. The logits of the last, empty as step has it; nothing where that does not apply.
  std::optional<std::vector<float>> begin_again(const Chunk& chunk) {
    const auto sequence = static_cast<size_t>(chunk.sequence);
    const int64_t beyond = model_.info().varies_beyond;
    if (!model_.info().recomputes || begun_[sequence] > beyond || lengths_[sequence] == 0) return std::nullopt;
    if (lengths_[sequence] + static_cast<int64_t>(chunk.tokens.size()) <= beyond) return std::nullopt;
    check(chunk.tokens.size() == 1, "tokens come one by one where they cross the original context");
    std::vector<int32_t> all = std::move(history_[sequence]);
    all.push_back(chunk.tokens[0]);
    history_[sequence].clear();
    lengths_[sequence] = begun_[sequence] = 0;
    std::vector<float> logits = step({{chunk.sequence, all}});
    if (!logits.empty()) logits.erase(logits.begin(), logits.end() - model_.info().vocab);
    return logits;
  }

  // The sequence's encoder prompt as a step of its own, unless it had one.
  void encode(int64_t sequence) {
    if (encoded_[static_cast<size_t>(sequence)]) return;
    encoded_[static_cast<size_t>(sequence)] = true;
    std::vector<int32_t> positions, slots, table;
    const auto n = static_cast<int32_t>(encoder_.size());
    for (int32_t i = 0; i < n; ++i) {
      positions.push_back(i);
      slots.push_back(static_cast<int32_t>(block(sequence, i / kBlockSize) * kBlockSize + i % kBlockSize));
    }
    for (int64_t i = 0; i < kBlocksPerSequence; ++i) table.push_back(block(sequence, i));
    BatchView inner, batch;
    inner.rows = n, inner.seqs = 1;
    inner.tokens = upload(encoder_);
    inner.positions = upload(positions);
    inner.first_row = upload({0, n});
    inner.context = upload({n});
    for (size_t g = 0; g < model_.cache_groups().size(); ++g) {
      inner.cache[g].slots = upload(slots);
      inner.cache[g].block_table = upload(table).reshaped({1, kBlocksPerSequence});
    }
    batch.encoder = &inner;
    model_.forward(batch);
  }
  Tensor upload(const std::vector<int32_t>& values) {
    const int64_t n = static_cast<int64_t>(values.size());
    buffers_.push_back(backend_.allocate(std::max<size_t>(1, values.size()) * sizeof(int32_t)));
    const Tensor out = buffers_.back().view(DType::kI32, {n});
    if (n > 0) backend_.copy_in(out, values.data());
    return out;
  }

  Model& model_;
  Backend& backend_;
  std::vector<int64_t> lengths_;
  std::vector<int32_t> begun_;  // tokens that each sequence was begun with
  std::vector<std::vector<int32_t>> history_;
  std::vector<int32_t> encoder_;
  std::vector<bool> encoded_;  // [kMaxSeqs]
  std::vector<Buffer> buffers_;
};

// Reference values of one case, as tests/golden/make_<family>.py wrote them.
struct Golden {
  std::filesystem::path folder;
  std::vector<int32_t> encoder;  // prompt of an encoder; then `prompt` is the decoder's
  std::vector<int32_t> prompt, greedy, native_greedy;
  std::vector<int32_t> free_greedy;  // with an encoder: greedy tokens after the decoder's start token alone
  std::vector<float> logits, margins, native_logits, native_margins;  // native: computed in half precision
};

// Names of cases: "llama1" of the Llama family, "gpt2/masks" of another.
inline std::vector<std::string> golden_cases() {
  std::vector<std::string> out;
  const auto root = test::source_dir() / "tests/golden";
  for (const auto& item : std::filesystem::recursive_directory_iterator(root)) {
    if (item.path().filename() != "golden.safetensors") continue;
    const auto folder = item.path().parent_path();
    if (folder.filename() == "mxfp4") continue;  // where activations of quantised products are rounded, logits differ
    const std::string family = folder.parent_path().filename().string();
    out.push_back((family == "llama" ? "" : family + "/") + folder.filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

inline Golden read_golden(const std::string& name) {
  Golden out;
  const bool llama = name.find('/') == std::string::npos;
  out.folder = test::source_dir() / "tests/golden" / (llama ? "llama/" + name : name);
  const File file = File::open_read(out.folder / "golden.safetensors");
  for (const SafetensorsEntry& entry : read_safetensors(file).tensors) {
    const size_t bytes = static_cast<size_t>(entry.end - entry.begin);
    std::vector<int64_t> ids(entry.dtype == "I64" ? bytes / 8 : 0);
    std::vector<float> values(entry.dtype == "F32" ? bytes / 4 : 0);
    file.read_at(entry.begin, ids.empty() ? static_cast<void*>(values.data()) : ids.data(), bytes);
    const std::vector<int32_t> tokens(ids.begin(), ids.end());
    if (entry.name == "encoder") out.encoder = tokens;
    if (entry.name == "prompt") out.prompt = tokens;
    if (entry.name == "free_greedy") out.free_greedy = tokens;
    if (entry.name == "greedy") out.greedy = tokens;
    if (entry.name == "native_greedy") out.native_greedy = tokens;
    if (entry.name == "logits") out.logits = values;
    if (entry.name == "margins") out.margins = values;
    if (entry.name == "native_logits") out.native_logits = values;
    if (entry.name == "native_margins") out.native_margins = values;
  }
  check(!out.prompt.empty() && out.greedy.size() == 64 && !out.logits.empty(), "a golden file is complete");
  return out;
}

// All numbers of a tensor that is stored as f32 or bf16.
inline std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name) {
  const CheckpointTensor* tensor = checkpoint.find(name);
  check(tensor != nullptr, "the golden checkpoint has the tensor");
  const std::vector<char> raw = read_whole(checkpoint, *tensor);
  std::vector<float> out(raw.size() / dtype_bytes(tensor->dtype()));
  convert_elements(out.data(), DType::kF32, raw.data(), tensor->dtype(), static_cast<int64_t>(out.size()));
  return out;
}

inline double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1e30;
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) worst = d;  // NaN counts
  }
  return worst;
}

inline int32_t argmax(const float* logits, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

// What one rank saw: the prompt's logits at every row, and the greedy choice after each token of the reference's
// continuation. By induction the 64 choices equal a free run as long as each equals the reference.
struct Outcome {
  std::vector<float> logits;
  std::vector<int32_t> greedy;
};

inline Outcome run_golden(Model& model, Backend& backend, const Golden& golden) {
  ModelRunner runner(model, backend, golden.encoder);
  Outcome out;
  out.logits = runner.step({{1, golden.prompt}});
  std::vector<float> last = out.logits;
  const int64_t vocab = model.info().vocab;
  for (const int32_t token : golden.greedy) {
    if (!last.empty()) out.greedy.push_back(argmax(last.data() + last.size() - static_cast<size_t>(vocab), vocab));
    last = runner.step({{1, {token}}});
  }
  return out;
}

inline std::unique_ptr<Model> load_golden(const Golden& golden, const std::string& dtype, Backend& backend,
                                          Groups& groups, const std::string& experts = "auto",
                                          const std::string& quantize = "") {
  ModelSource source;
  source.folder = golden.folder;
  source.dtype = dtype;
  source.load_threads = 2;
  source.quiet = true;
  source.experts = experts;
  source.quantize = quantize;
  return load_model(source, backend, groups);
}

// Outcomes by rank, each rank a thread with its own backend. An Error of any rank aborts: the others wait for it.
inline std::vector<Outcome> run_ranks(const Golden& golden, int tp, int pp, const std::string& dtype,
                                      const MakeBackend& make, const std::string& experts = "auto",
                                      const std::string& quantize = "", const MakeGroups& wrap = nullptr) {
  std::vector<Groups> groups = make_thread_groups(tp, pp);
  std::vector<Outcome> outcomes(groups.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < groups.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        const std::unique_ptr<Backend> backend = make();
        if (wrap != nullptr) groups[r] = wrap(std::move(groups[r]), *backend);
        const std::unique_ptr<Model> model = load_golden(golden, dtype, *backend, groups[r], experts, quantize);
        outcomes[r] = run_golden(*model, *backend, golden);
      } catch (const Error& error) {
        fatal(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

}  // namespace sluice::test

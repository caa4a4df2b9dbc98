// SPDX-License-Identifier: Apache-2.0
#include "weights/load.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "weights/host_backend.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
// Heads of 4, 3 KV heads, 6 query heads, width 24, feed-forward 10, vocabulary 13.
constexpr SplitSizes kSizes{6, 3, 4, 10, 13};
constexpr int64_t kWidth = 24;

std::vector<TensorSpec> small_table() {
  return {
      {"embed", {13, kWidth}, Split::kVocab, Split::kWhole, Place::kEmbedding},
      {"q", {24, kWidth}, Split::kQueryHeads},
      {"k", {12, kWidth}, Split::kKvHeads},
      {"v", {12, kWidth}, Split::kKvHeads},
      {"k.bias", {12}, Split::kKvHeads},
      {"o", {kWidth, 24}, Split::kWhole, Split::kQueryHeads},
      {"down", {kWidth, 10}, Split::kWhole, Split::kFeedForward},
      {"norm", {kWidth}, Split::kWhole, Split::kWhole, Place::kLayer, 0, Init::kOne},
  };
}

// The value of an element, exact in every type.
float value(size_t tensor, int64_t row, int64_t col) {
  return static_cast<float>((static_cast<int64_t>(tensor) * 7 + row * 5 + col * 3) % 128) - 64.0f;
}

std::string raw(const std::string& dtype, const std::vector<float>& values) {
  const DType type = parse_dtype(dtype);
  std::string out(values.size() * dtype_bytes(type), '\0');
  if (type == DType::kF64) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double wide = values[i];
      std::memcpy(out.data() + 8 * i, &wide, 8);
    }
  } else {
    convert_elements(out.data(), type, values.data(), DType::kF32, static_cast<int64_t>(values.size()));
  }
  return out;
}

// Writes the table as one file; `dtypes` are dealt out in turn.
void write_checkpoint(const test::TemporaryFolder& folder, const std::vector<std::string>& dtypes) {
  std::vector<test::NamedTensor> tensors;
  const auto table = small_table();
  for (size_t t = 0; t < table.size(); ++t) {
    const int64_t cols = table[t].shape.size() == 2 ? table[t].shape[1] : 1;
    std::vector<float> values;
    for (int64_t i = 0; i < table[t].elements(); ++i) values.push_back(value(t, i / cols, i % cols));
    const std::string& dtype = dtypes[t % dtypes.size()];
    tensors.push_back({table[t].name, dtype, table[t].shape, raw(dtype, values)});
  }
  folder.write("model.safetensors", test::safetensors_bytes(tensors));
}

struct Loaded {
  std::unique_ptr<Weight> qkv, o, down, head;
  Buffer embed, k_bias, norm;
  size_t bytes = 0;
};

Loaded load(const Checkpoint* checkpoint, const Partition& partition, DType dtype, size_t memory, size_t read_bytes) {
  test::StoringBackend backend;
  WeightLoader loader(backend, checkpoint, small_table(), partition, dtype);
  Loaded out;
  const std::string qkv[] = {"q", "k", "v"}, o[] = {"o"}, down[] = {"down"}, embed[] = {"embed"}, bias[] = {"k.bias"},
                    norm[] = {"norm"};
  loader.matrix(qkv, out.qkv);
  loader.matrix(o, out.o);
  loader.matrix(down, out.down);
  loader.matrix(embed, out.head);
  loader.table("embed", out.embed);
  loader.vector(bias, out.k_bias);
  loader.vector(norm, out.norm);
  loader.run({3, memory, read_bytes, true});
  out.bytes = loader.weight_bytes();
  return out;
}

// Rows of `tensor` as the table splits them, padding zero, starting at row `at` of `values`.
void check_part(const std::vector<float>& values, int64_t at, size_t tensor, const Partition& p) {
  const TensorSpec spec = small_table()[tensor];
  const Range rows = p.of(spec.rows, spec.shape[0]);
  const Range cols = spec.shape.size() == 2 ? p.of(spec.cols, spec.shape[1]) : Range{0, 1, 1};
  for (int64_t r = 0; r < rows.padded; ++r) {
    for (int64_t c = 0; c < cols.padded; ++c) {
      const float expected = r < rows.count && c < cols.count ? value(tensor, rows.begin + r, cols.begin + c) : 0.0f;
      REQUIRE(values[static_cast<size_t>((at + r) * cols.padded + c)] == expected);
    }
  }
}

std::vector<float> floats(const Buffer& buffer) {
  const float* data = static_cast<const float*>(buffer.data());
  return {data, data + buffer.bytes() / sizeof(float)};
}
std::vector<float> floats(const std::unique_ptr<Weight>& weight) {
  return static_cast<const test::PlainWeight&>(*weight).values;
}
}  // namespace

TEST_CASE("Each rank gets its slices, padded with zeros, in any mix of stored types and read sizes") {
  const std::vector<std::string> mixes[] = {{"F32"}, {"BF16"}, {"F16", "BF16", "F32"}, {"F64", "F32"}};
  for (const auto& mix : mixes) {
    test::TemporaryFolder folder;
    write_checkpoint(folder, mix);
    const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
    for (const int tp : {1, 2, 3, 4, 8}) {
      for (int rank = 0; rank < tp; ++rank) {
        const Partition p(kSizes, rank, tp);
        for (const size_t read : {size_t{64}, size_t{4096}}) {
          // One matrix at a time, or three.
          const Loaded w = load(&checkpoint, p, DType::kF32, read == 64 ? 1000 : 3 * 4096, read);
          const int64_t q = p.heads.padded * 4, kv = p.kv_heads.padded * 4;
          REQUIRE(w.qkv->rows() == q + 2 * kv);
          check_part(floats(w.qkv), 0, 1, p);
          check_part(floats(w.qkv), q, 2, p);
          check_part(floats(w.qkv), q + kv, 3, p);
          check_part(floats(w.o), 0, 5, p);
          check_part(floats(w.down), 0, 6, p);
          check_part(floats(w.head), 0, 0, p);
          check_part(floats(w.embed), 0, 0, p);
          check_part(floats(w.k_bias), 0, 4, p);
          check_part(floats(w.norm), 0, 7, p);
        }
      }
    }
  }
}

TEST_CASE("Transposed and fused matrices are turned and taken apart, padded with zeros") {
  // The file holds qkv [in, 24 + 12 + 12], its bias in the same order, and o as [in, out].
  constexpr int64_t kOutputs = 48;
  const std::vector<TensorSpec> table = {
      {"q", {24, kWidth}, Split::kQueryHeads, Split::kWhole, {}, 0, {}, {true, "qkv", 0, kOutputs}},
      {"k", {12, kWidth}, Split::kKvHeads, Split::kWhole, {}, 0, {}, {true, "qkv", 24, kOutputs}},
      {"v", {12, kWidth}, Split::kKvHeads, Split::kWhole, {}, 0, {}, {true, "qkv", 36, kOutputs}},
      {"k.bias", {12}, Split::kKvHeads, Split::kWhole, {}, 0, {}, {false, "qkv.bias", 24, kOutputs}},
      {"o", {kWidth, 24}, Split::kWhole, Split::kQueryHeads, {}, 0, {}, {true}},
  };
  std::vector<float> qkv, bias, o;
  for (int64_t in = 0; in < kWidth; ++in) {
    for (int64_t out = 0; out < kOutputs; ++out) qkv.push_back(value(0, out, in));
  }
  for (int64_t out = 0; out < kOutputs; ++out) bias.push_back(value(1, out, 0));
  for (int64_t in = 0; in < 24; ++in) {
    for (int64_t out = 0; out < kWidth; ++out) o.push_back(value(2, out, in));
  }
  for (const std::string dtype : {"F32", "BF16", "F64"}) {
    test::TemporaryFolder folder;
    folder.write("model.safetensors", test::safetensors_bytes({{"qkv", dtype, {kWidth, kOutputs}, raw(dtype, qkv)},
                                                               {"qkv.bias", dtype, {kOutputs}, raw(dtype, bias)},
                                                               {"o", dtype, {24, kWidth}, raw(dtype, o)}}));
    const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
    CHECK(unused_tensors(checkpoint, table, {}).empty());
    for (const int tp : {1, 2, 3, 4, 8}) {
      for (int rank = 0; rank < tp; ++rank) {
        const Partition p(kSizes, rank, tp);
        for (const size_t read : {size_t{64}, size_t{500}, size_t{1} << 20}) {
          test::StoringBackend backend;
          WeightLoader loader(backend, &checkpoint, table, p, DType::kF32);
          std::unique_ptr<Weight> all, part_o;
          Buffer k_bias;
          const std::string names[] = {"q", "k", "v"}, o_name[] = {"o"}, bias_name[] = {"k.bias"};
          loader.matrix(names, all);
          loader.matrix(o_name, part_o);
          loader.vector(bias_name, k_bias);
          loader.run({2, 10000, read, true});
          const std::vector<float> loaded = floats(all), loaded_o = floats(part_o), loaded_bias = floats(k_bias);
          int64_t at = 0;
          for (size_t t = 0; t < 3; ++t) {
            const Range rows = p.of(table[t].rows, table[t].shape[0]);
            for (int64_t r = 0; r < rows.padded; ++r, ++at) {
              for (int64_t c = 0; c < kWidth; ++c) {
                const float expected = r < rows.count ? value(0, table[t].stored.first + rows.begin + r, c) : 0.0f;
                REQUIRE(loaded[static_cast<size_t>(at * kWidth + c)] == expected);
              }
            }
          }
          REQUIRE(all->rows() == at);
          const Range kv = p.of(Split::kKvHeads, 12), q = p.of(Split::kQueryHeads, 24);
          for (int64_t r = 0; r < kv.padded; ++r)
            REQUIRE(loaded_bias[static_cast<size_t>(r)] == (r < kv.count ? value(1, 24 + kv.begin + r, 0) : 0.0f));
          for (int64_t r = 0; r < kWidth; ++r) {
            for (int64_t c = 0; c < q.padded; ++c) {
              const float expected = c < q.count ? value(2, r, q.begin + c) : 0.0f;
              REQUIRE(loaded_o[static_cast<size_t>(r * q.padded + c)] == expected);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("Rows that lie in groups of heads are taken apart for every split") {
  // The file holds 3 groups: 2 query heads, a key head, a value head, each of 4 rows.
  constexpr int64_t kOutputs = 48, kHead = 4, kGroup = 16;
  const auto grouped = [](const std::string& name, int64_t first, int64_t run) {
    Stored out{false, name, first, kOutputs};
    out.run = run, out.stride = kGroup;
    return out;
  };
  const std::vector<TensorSpec> table = {
      {"q", {24, kWidth}, Split::kQueryHeads, Split::kWhole, {}, 0, {}, grouped("qkv", 0, 2 * kHead)},
      {"k", {12, kWidth}, Split::kKvHeads, Split::kWhole, {}, 0, {}, grouped("qkv", 2 * kHead, kHead)},
      {"v", {12, kWidth}, Split::kKvHeads, Split::kWhole, {}, 0, {}, grouped("qkv", 3 * kHead, kHead)},
      {"v.bias", {12}, Split::kKvHeads, Split::kWhole, {}, 0, {}, grouped("qkv.bias", 3 * kHead, kHead)},
  };
  std::vector<float> qkv, bias;
  for (int64_t out = 0; out < kOutputs; ++out) {
    bias.push_back(value(1, out, 0));
    for (int64_t in = 0; in < kWidth; ++in) qkv.push_back(value(0, out, in));
  }
  test::TemporaryFolder folder;
  folder.write("model.safetensors", test::safetensors_bytes({{"qkv", "BF16", {kOutputs, kWidth}, raw("BF16", qkv)},
                                                             {"qkv.bias", "BF16", {kOutputs}, raw("BF16", bias)}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
  CHECK(unused_tensors(checkpoint, table, {}).empty());
  for (const int tp : {1, 2, 3, 4, 6, 8}) {
    for (int rank = 0; rank < tp; ++rank) {
      const Partition p(kSizes, rank, tp);
      for (const size_t read : {size_t{64}, size_t{1} << 20}) {
        test::StoringBackend backend;
        WeightLoader loader(backend, &checkpoint, table, p, DType::kF32);
        std::unique_ptr<Weight> all;
        Buffer v_bias;
        const std::string names[] = {"q", "k", "v"}, bias_name[] = {"v.bias"};
        loader.matrix(names, all);
        loader.vector(bias_name, v_bias);
        loader.run({2, 10000, read, true});
        const std::vector<float> loaded = floats(all), loaded_bias = floats(v_bias);
        int64_t at = 0;
        const auto check_rows = [&](Split split, int64_t whole, const auto& stored_row) {
          const Range rows = p.of(split, whole);
          for (int64_t r = 0; r < rows.padded; ++r, ++at) {
            for (int64_t c = 0; c < kWidth; ++c) {
              const float expected = r < rows.count ? value(0, stored_row(rows.begin + r), c) : 0.0f;
              REQUIRE(loaded[static_cast<size_t>(at * kWidth + c)] == expected);
            }
          }
        };
        check_rows(Split::kQueryHeads, 24, [](int64_t r) { return r / 8 * kGroup + r % 8; });
        check_rows(Split::kKvHeads, 12, [](int64_t r) { return r / 4 * kGroup + 8 + r % 4; });
        check_rows(Split::kKvHeads, 12, [](int64_t r) { return r / 4 * kGroup + 12 + r % 4; });
        const Range kv = p.of(Split::kKvHeads, 12);
        for (int64_t r = 0; r < kv.padded; ++r) {
          const int64_t row = (kv.begin + r) / 4 * kGroup + 12 + (kv.begin + r) % 4;
          REQUIRE(loaded_bias[static_cast<size_t>(r)] == (r < kv.count ? value(1, row, 0) : 0.0f));
        }
      }
    }
  }
}

TEST_CASE("Weight bytes count everything that is held") {
  const Loaded w = load(nullptr, Partition(kSizes, 0, 1), DType::kBF16, 1 << 20, 1 << 20);
  CHECK(w.bytes == 2 * (48 * 24 + 24 * 24 + 24 * 10 + 13 * 24) + 2 * 13 * 24 + 4 * (12 + 24));
}

TEST_CASE("Random weights are the same numbers however they are split, and ones where norms ask for ones") {
  const Loaded whole = load(nullptr, Partition(kSizes, 0, 1), DType::kF32, 1 << 20, 1 << 20);
  const std::vector<float> all = floats(whole.down);
  CHECK(std::set<float>(all.begin(), all.end()).size() > 230);
  for (const float v : all) CHECK(std::abs(v) <= std::sqrt(3.0f / 10.0f));
  for (const float v : floats(whole.norm)) CHECK(v == 1.0f);
  for (int rank = 0; rank < 4; ++rank) {
    const Partition p(kSizes, rank, 4);
    const std::vector<float> part = floats(load(nullptr, p, DType::kF32, 1 << 20, 100).down);
    for (int64_t r = 0; r < kWidth; ++r) {
      for (int64_t c = 0; c < p.d_ff.padded; ++c) {
        const float expected = c < p.d_ff.count ? all[static_cast<size_t>(r * 10 + p.d_ff.begin + c)] : 0.0f;
        CHECK(part[static_cast<size_t>(r * p.d_ff.padded + c)] == expected);
      }
    }
  }
}

TEST_CASE("A file that shrinks while it is read ends the load with its name") {
  test::TemporaryFolder folder;
  write_checkpoint(folder, {"F32"});
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
  std::filesystem::resize_file(folder.path() / "model.safetensors", 3000);
  CHECK_THROWS_AS(load(&checkpoint, Partition(kSizes, 0, 2), DType::kF32, 500, 64), Error);
}

TEST_CASE("Tensors that nobody asks for are listed unless their kind is known") {
  test::TemporaryFolder folder;
  folder.write("model.safetensors", test::safetensors_bytes({{"norm", "F32", {1}, "0000"},
                                                             {"extra", "F32", {1}, "0000"},
                                                             {"l.rotary_emb.inv_freq", "F32", {1}, "0000"}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), "");
  const std::string ignored[] = {".rotary_emb.inv_freq"};
  CHECK(unused_tensors(checkpoint, small_table(), ignored) == std::vector<std::string>{"extra"});
}

}  // namespace sluice

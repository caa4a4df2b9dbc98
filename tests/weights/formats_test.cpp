// SPDX-License-Identifier: Apache-2.0
// Checkpoints of other layouts, written by tests/golden/make_checkpoints.py, against the tensors that they mean.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <map>

#include "base/error.h"
#include "places.h"
#include "weights/checkpoint.h"
#include "weights/foreign.h"
#include "weights/host_backend.h"
#include "weights/load.h"
#include "weights/nemo.h"
#include "weights/quantised.h"
#include "weights/safetensors.h"
#include "weights/safetensors_file.h"
#include "weights/tar.h"
#include "weights/torch_file.h"
#include "weights/yaml.h"

namespace sluice {
namespace {
namespace fs = std::filesystem;
const fs::path kGolden = test::source_dir() / "tests/golden/checkpoints";

struct Expected {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

std::map<std::string, Expected> read_expected(const fs::path& path) {
  std::map<std::string, Expected> out;
  const File file = File::open_read(path);
  for (const SafetensorsEntry& entry : read_safetensors(file).tensors) {
    std::string bytes(entry.end - entry.begin, '\0');
    file.read_at(entry.begin, bytes.data(), bytes.size());
    out[entry.name] = {entry.dtype, entry.shape, bytes};
  }
  return out;
}

// A tensor's bytes as one contiguous block, whatever the file makes of it.
std::string read_tensor(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  size_t element = tensor.stored_dtype == "F64" ? 8 : tensor.stored_dtype == "F32" ? 4 : 2, count = 1;
  for (const int64_t n : tensor.shape) count *= static_cast<size_t>(n);
  std::string out(count * element, '?');
  const auto place = [&](const CheckpointTensor& from, int64_t to_row, int64_t to_col) {
    const int64_t rows = from.shape.empty() ? 1 : from.shape[0], cols = from.shape.size() == 2 ? from.shape[1] : 1;
    const int64_t width = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    for (int64_t r = 0; r < rows; ++r) {
      if (cols == 0) continue;
      checkpoint.files()[static_cast<size_t>(from.file)].read_at(
          from.offset + static_cast<uint64_t>(r * from.stride()) * element,
          out.data() + static_cast<size_t>((to_row + r) * width + to_col) * element,
          static_cast<size_t>(cols) * element);
    }
  };
  if (tensor.pieces.empty()) place(tensor, 0, 0);
  for (const TensorPiece& piece : tensor.pieces) place(piece.tensor, piece.to_row, piece.to_col);
  return out;
}

void check_same(const Checkpoint& checkpoint, const std::map<std::string, Expected>& expected) {
  CHECK(checkpoint.tensors().size() == expected.size());
  for (const auto& [name, want] : expected) {
    CAPTURE(name);
    const CheckpointTensor* tensor = checkpoint.find(name);
    REQUIRE(tensor != nullptr);
    CHECK(tensor->stored_dtype == want.dtype);
    CHECK(tensor->shape == want.shape);
    CHECK(read_tensor(checkpoint, *tensor) == want.bytes);
  }
}

std::string refusal(const fs::path& path) {
  try {
    Checkpoint::open(path, "");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }
}  // namespace

TEST_CASE("Torch files hold the same tensors in both formats and in shards") {
  const auto expected = read_expected(kGolden / "bin/expected.safetensors");
  for (const char* name : {"zip", "legacy", "sharded"}) {
    CAPTURE(name);
    check_same(Checkpoint::open(kGolden / "bin" / name, ""), expected);
  }
  CHECK(Checkpoint::open(kGolden / "bin/nested", "").find("state_dict.nested.a") != nullptr);
}

TEST_CASE("A torch file that asks for code is refused by the name of what it asks for") {
  const std::string said = refusal(kGolden / "bin/forbidden");
  CHECK(contains(said, "__builtin__.print"));
  CHECK(contains(said, "not run"));
}

TEST_CASE("A transposed tensor of a torch file is read column by column") {
  const Expected shared = read_expected(kGolden / "bin/expected.safetensors").at("shared");
  const Checkpoint turned = Checkpoint::open(kGolden / "bin/transposed", "");
  const CheckpointTensor& tensor = turned.at("w", {shared.shape[1], shared.shape[0]});
  const std::string got = read_tensor(turned, tensor);
  REQUIRE(got.size() == shared.bytes.size());
  for (int64_t r = 0; r < tensor.shape[0]; ++r) {
    for (int64_t c = 0; c < tensor.shape[1]; ++c)
      CHECK(got.substr(static_cast<size_t>(r * tensor.shape[1] + c) * 4, 4) ==
            shared.bytes.substr(static_cast<size_t>(c * tensor.shape[0] + r) * 4, 4));
  }
}

TEST_CASE("A tensor of a torch file that claims more elements than can be counted is refused") {
  const int64_t many = int64_t{1} << 48;
  TorchEntry repeated{"w", "F32", {many, many}, {0, 0}, 0};  // one element in the file
  CHECK_THROWS_WITH_AS(torch_tensor(repeated, 0, "a.bin"), doctest::Contains("expected at most"), Error);
  TorchEntry empty{"w", "F32", {many, 0, many}, {0, 0, 0}, 0};
  CHECK(torch_tensor(empty, 0, "a.bin").bytes == 0);
}

TEST_CASE("Scales of a quantised layer that lie column by column are refused") {
  const auto refused = [](const std::string& name, const QuantFormat& format, std::vector<CheckpointTensor> tensors) {
    TorchEntry turned{name, "F32", {4, 8}, {1, 4}, 0};
    tensors.push_back(torch_tensor(turned, 0, "a.bin"));
    REQUIRE(!tensors.back().pieces.empty());
    CHECK_THROWS_WITH_AS(join_quantised(std::move(tensors), format, "a.bin"), doctest::Contains("contiguous"), Error);
  };
  QuantFormat format;
  format.group = 16;
  refused("w.scales", format,
          {{"w.qweight", "I32", {8, 8}, 0, 0, 256, 0, {}}, {"w.qzeros", "I32", {4, 1}, 0, 0, 16, 0, {}}});
  format.block_rows = format.block_cols = 16;
  refused("w.weight_scale_inv", format, {{"w.weight", "F8_E4M3", {64, 128}, 0, 0, 8192, 0, {}}});
}

TEST_CASE("A folder with both safetensors and torch files is read from safetensors") {
  const test::TemporaryFolder folder;
  folder.write("model.safetensors", test::safetensors_bytes({{"only", "F32", {1}, std::string(4, '\0')}}));
  fs::copy(kGolden / "bin/zip/pytorch_model.bin", folder.path() / "pytorch_model.bin");
  CHECK(Checkpoint::open(folder.path(), "").tensors().size() == 1);
}

TEST_CASE("Torch files that are cut off or damaged are refused") {
  const test::TemporaryFolder folder;
  for (const char* name : {"zip", "legacy"}) {
    const std::string whole = read_file(kGolden / "bin" / name / "pytorch_model.bin");
    for (const size_t bytes : {size_t{0}, size_t{3}, size_t{40}, whole.size() / 2, whole.size() - 30}) {
      std::ofstream(folder.path() / "pytorch_model.bin", std::ios::binary) << whole.substr(0, bytes);
      CAPTURE(name);
      CAPTURE(bytes);
      CHECK(!refusal(folder.path()).empty());
    }
  }
  std::ofstream(folder.path() / "pytorch_model.bin") << "version https://git-lfs.github.com/spec/v1\n";
  CHECK(contains(refusal(folder.path()), "git-lfs"));
}

TEST_CASE("A NeMo archive of several ranks, or compressed, holds whole tensors with layers counted over all stages") {
  const auto expected = read_expected(kGolden / "nemo/expected.safetensors");
  for (const char* name : {"tp2_pp2.nemo", "gz_one.nemo"}) {
    CAPTURE(name);
    check_same(Checkpoint::open(kGolden / "nemo" / name, ""), expected);
    const std::string config = foreign_config(kGolden / "nemo" / name);
    for (const char* part :
         {R"("architectures":["MegatronGPTModel"])", R"("ffn_hidden_size":64)", R"("max_position_embeddings":32)",
          R"("padded_vocab_size":64)", R"("torch_dtype":"float32")", R"("layernorm_epsilon":1e-05)",
          R"("betas":[0.9,0.98])", R"("warmup_steps":500)"})
      CHECK_MESSAGE(contains(config, part), config);
    const auto tokenizer = nemo_tokenizer_files(kGolden / "nemo" / name);
    REQUIRE(tokenizer.size() == 2);
    CHECK(tokenizer[0] == std::pair<std::string, std::string>("vocab.json", R"({"a": 0})"));
    CHECK(tokenizer[1].first == "merges.txt");
  }
}

TEST_CASE("A NeMo archive that lacks a rank, leads out of itself or is distributed is refused") {
  // tp2_pp2.nemo without the member of one rank: a header of 512 bytes, then its content in blocks of as many.
  const std::string whole = read_file(kGolden / "nemo/tp2_pp2.nemo");
  const size_t member = whole.find("./tp_rank_01_pp_rank_000/");
  REQUIRE(member % 512 == 0);
  const size_t content = std::stoul(whole.substr(member + 124, 11), nullptr, 8);
  const test::TemporaryFolder folder;
  folder.write("three.nemo", whole.substr(0, member) + whole.substr(member + 512 + (content + 511) / 512 * 512));
  CHECK(contains(refusal(folder.path() / "three.nemo"), "holds weights of 3 ranks, expected 4"));
  CHECK(contains(refusal(kGolden / "nemo/unsafe.nemo"), "leads out of the archive"));
  CHECK(contains(refusal(kGolden / "nemo/distributed.nemo"), "distributed checkpoint"));
}

TEST_CASE("A FasterTransformer folder whose files have other sizes is refused") {
  const test::TemporaryFolder folder;
  const fs::path copy = folder.path() / "2-gpu";
  fs::copy(kGolden / "faster_transformer/2-gpu", copy, fs::copy_options::recursive);
  CHECK(refusal(folder.path()).empty());
  fs::resize_file(copy / "model.layers.1.attention.dense.weight.1.bin", 100);
  CHECK(contains(refusal(folder.path()), "has 100 bytes, expected 512 of shape [8, 16]"));
  fs::remove(copy / "model.layers.0.mlp.dense_4h_to_h.bias.bin");
  CHECK(contains(refusal(folder.path()), "lacks model.layers.0.mlp.dense_4h_to_h.bias.bin"));
}

TEST_CASE("YAML that is more than plain maps, lists and scalars is refused by its line") {
  CHECK(yaml_to_json("a: 1\nb:\n  - x: 'it''s'\n    y: [1, 2.5, {k: \"v\"}]\n  - ~\nc: long\n  text # note\n", "f") ==
        R"({"a":1,"b":[{"x":"it's","y":[1,2.5,{"k":"v"}]},null],"c":"long text"})");
  for (const char* text : {"a: &x 1", "a: *x", "a: !!python/object x", "a: |\n  text", "a: [1", "a: \"x", "a: 1\na: 2"})
    CHECK_THROWS_AS(yaml_to_json(text, "f"), Error);
}

namespace {
QuantFormat format_of(const std::string& name) {
  QuantFormat out;
  out.name = name;
  out.group = 32;
  if (name == "awq") out.kind = QuantFormat::Kind::kAwq;
  if (name == "rows8") out.kind = QuantFormat::Kind::kRows8;
  if (name == "gptq_act") out.ordered = true;
  if (name == "gptq3") out.bits = 3;
  if (name == "gptq8") out.bits = 8, out.group = 64;
  if (name == "fp8") out.kind = QuantFormat::Kind::kFp8, out.bits = 8, out.block_rows = 16, out.block_cols = 32;
  return out;
}

// Loads layer `names` of a golden case for one of `tp` ranks, split over `split` rows or columns, and compares with the
// floats that it means. Returns whether the numbers stayed quantised.
bool check_layer(const std::string& golden, const std::vector<std::string>& names, int tp, bool columns,
                 bool packs_fp8 = false) {
  CAPTURE(golden);
  CAPTURE(tp);
  CAPTURE(columns);
  const auto expected = read_expected(kGolden / "quantised" / golden / "expected.safetensors");
  Checkpoint checkpoint = Checkpoint::open(kGolden / "quantised" / golden, "");
  checkpoint.join(format_of(golden));
  bool quantised = true;
  for (int rank = 0; rank < tp; ++rank) {
    std::vector<TensorSpec> table;
    for (const std::string& name : names) {
      const auto& shape = expected.at(name).shape;
      table.push_back({name, shape, columns ? Split::kWhole : Split::kVocab, columns ? Split::kVocab : Split::kWhole});
    }
    const auto& first = expected.at(names[0]).shape;
    const Partition partition({1, 1, 1, 1, columns ? first[1] : first[0]}, rank, tp);
    test::StoringBackend backend;
    backend.packs_fp8 = packs_fp8;
    WeightLoader loader(backend, &checkpoint, table, partition, DType::kF32);
    std::unique_ptr<Weight> weight;
    loader.matrix(names, weight);
    StagingOptions options;
    options.quiet = true;
    loader.run(options);
    const auto& got = static_cast<const test::PlainWeight&>(*weight);
    quantised = quantised && got.quantised;
    int64_t above = 0, width = 0;  // rows of the layers before, columns with padding
    bool same = true;
    for (const std::string& name : names) {
      const auto& want = expected.at(name);
      const Range rows = partition.of(table[0].rows, want.shape[0]), cols = partition.of(table[0].cols, want.shape[1]);
      width = cols.padded;
      for (int64_t r = 0; r < rows.count; ++r) {
        for (int64_t k = 0; k < cols.count; ++k) {
          float value;
          std::memcpy(&value, want.bytes.data() + 4 * ((rows.begin + r) * want.shape[1] + cols.begin + k), 4);
          const float found = got.values[static_cast<size_t>((above + r) * width + k)];
          same = same && std::abs(found - value) <= 1e-6f * std::abs(value);
        }
      }
      above += rows.padded;
    }
    CHECK(static_cast<int64_t>(got.values.size()) == above * width);
    CHECK(same);
  }
  return quantised;
}
}  // namespace

TEST_CASE("Layers of quantised checkpoints mean the floats of their formulas, whole and split") {
  for (const char* name : {"gptq", "gptq_act", "gptq3", "gptq8", "awq", "rows8"}) {
    CHECK(check_layer(name, {"a.weight"}, 1, false));
    CHECK(check_layer(name, {"a.weight"}, 2, false));
    check_layer(name, {"a.weight"}, 2, true);
  }
  CHECK(check_layer("awq", {"a.weight", "b.weight"}, 1, false));
  CHECK(check_layer("awq", {"a.weight"}, 4, true));         // a group for each rank
  CHECK_FALSE(check_layer("gptq", {"a.weight"}, 3, true));  // padded
  CHECK(check_layer("gptq", {"a.weight", "b.weight"}, 2, false));
  // Different orders have no common arrangement.
  CHECK_FALSE(check_layer("gptq_act", {"a.weight", "b.weight"}, 1, false));
  CHECK_FALSE(check_layer("gptq_act", {"a.weight"}, 2, true));
}

TEST_CASE("Layers of fp8 mean their numbers times the scale of the whole, the row or the block") {
  for (const char* name : {"blocks.weight", "whole.weight", "rows.weight"}) {
    CHECK_FALSE(check_layer("fp8", {name}, 1, false));  // floats are held
    check_layer("fp8", {name}, 2, false);
    check_layer("fp8", {name}, 3, true);
    CHECK(check_layer("fp8", {name}, 1, false, true));
    CHECK(check_layer("fp8", {name}, 2, false, true));
    check_layer("fp8", {name}, 2, true, true);
  }
  Checkpoint checkpoint = Checkpoint::open(kGolden / "quantised/fp8", "");
  QuantFormat format = format_of("fp8");
  format.block_rows = 8;
  CHECK_THROWS_WITH_AS(checkpoint.join(format), doctest::Contains("fit neither the whole, its rows, nor blocks"),
                       Error);
}

TEST_CASE("A quantised layer whose tensors do not fit together is refused") {
  Checkpoint checkpoint = Checkpoint::open(kGolden / "quantised/gptq", "");
  QuantFormat format = format_of("gptq");
  format.bits = 8;
  CHECK_THROWS_AS(checkpoint.join(format), Error);
}

}  // namespace sluice

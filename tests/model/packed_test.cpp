// SPDX-License-Identifier: Apache-2.0
// Weights that were packed for the ranks of one layout: the same bits as those packed while loading, and refused by
// name elsewhere.
#include "weights/packed.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "model/cpu_backend.h"
#include "model/packed_folder.h"
#include "model/quantised_files.h"
#include "model/run_model.h"
#include "weights/safetensors_file.h"

namespace sluice {
namespace {
using test::Golden;
using test::Outcome;
using test::Packed;
namespace fs = std::filesystem;

void check_same(const std::string& name, int tp, int pp, const std::string& dtype, const std::string& quantize,
                const std::string& experts = "auto") {
  CAPTURE(name);
  CAPTURE(tp);
  CAPTURE(pp);
  CAPTURE(dtype);
  CAPTURE(quantize);
  CAPTURE(experts);
  Golden golden = test::read_golden(name);
  golden.greedy.resize(6);
  const Packed packed(golden, *test::cpu_backend(), tp, pp, dtype, quantize, experts);
  const auto expected = test::run_ranks(golden, tp, pp, dtype, test::cpu_backend, experts, quantize);
  const auto found = test::run_ranks(packed.golden, tp, pp, "auto", test::cpu_backend);
  REQUIRE(found.size() == expected.size());
  for (size_t rank = 0; rank < found.size(); ++rank) {
    CAPTURE(rank);
    CHECK(found[rank].logits == expected[rank].logits);
    if (!found[rank].logits.empty()) CHECK(found[rank].greedy == expected[rank].greedy);  // a last stage's
  }
  CHECK_FALSE(found.back().greedy.empty());
}

std::string refusal(const Packed& packed, const ModelSource& asked, int tp, int pp) {
  ModelSource source = asked;
  source.folder = packed.folder.path();
  source.quiet = true;
  const auto backend = test::cpu_backend();
  auto groups = make_thread_groups(tp, pp);
  try {
    load_model(source, *backend, groups[0]);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// What each of `parts` is missing from `text`.
void check_says(const std::string& text, const std::vector<std::string>& parts) {
  CAPTURE(text);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}
}  // namespace

TEST_CASE("Packed for its layout, a model of every family has the bits of one that is packed while loading") {
  for (const std::string& name : test::golden_cases()) check_same(name, 2, 2, "auto", "");
}

TEST_CASE("Packed in every dtype and scheme, tied heads and untied ones give the same bits") {
  for (const std::string name : {"llama32_tied", "tie_contradicted", "llama2_gqa", "gpt2/untied", "mixtral/plain"}) {
    for (const auto& pair : {std::pair{1, 1}, std::pair{2, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
      check_same(name, pair.first, pair.second, "bfloat16", "");
      check_same(name, pair.first, pair.second, "float32", "");
      check_same(name, pair.first, pair.second, "float32", "int8");
      check_same(name, pair.first, pair.second, "bfloat16", "int4");
    }
  }
}

TEST_CASE("Packed experts are split or spread as they were packed") {
  for (const std::string experts : {"split", "spread"}) check_same("qwen3/moe_mixed", 2, 1, "float32", "", experts);
}

TEST_CASE("Checkpoints that are quantised already are packed as they are") {
  for (const std::string kind : test::kQuantisedKinds) {
    for (const int tp : {1, 2}) {
      CAPTURE(kind);
      CAPTURE(tp);
      test::QuantisedFiles files("rope_yarn", kind);
      files.golden.greedy.resize(4);
      const Packed packed(files.golden, *test::cpu_backend(), tp, 1, "auto", "");
      const auto expected = test::run_ranks(files.golden, tp, 1, "auto", test::cpu_backend);
      const auto found = test::run_ranks(packed.golden, tp, 1, "auto", test::cpu_backend);
      CHECK(found.back().logits == expected.back().logits);
      CHECK(found.back().greedy == expected.back().greedy);
    }
  }
}

TEST_CASE("Another run than weights were packed for is refused with both sides and the command") {
  const Packed packed(test::read_golden("llama2_gqa"), *test::cpu_backend(), 2, 1, "bfloat16", "int8");
  CHECK(refusal(packed, {}, 2, 1) == "");
  check_says(refusal(packed, {}, 1, 2),
             {"packed for tp 2, pp 1", "has tp 1, pp 2", "start 2 ranks with --tp 2 --pp 1",
              "sluice convert org/model OUT --tp 1 --pp 2 --dtype bfloat16 --quantize int8"});
  ModelSource asked;
  asked.dtype = "float32";
  check_says(refusal(packed, asked, 2, 1),
             {"--dtype is float32", "packed as bfloat16",
              "sluice convert org/model OUT --tp 2 --pp 1 --dtype float32 --quantize int8"});
  asked.dtype = "bf16";
  CHECK(refusal(packed, asked, 2, 1) == "");
  asked.quantize = "int4";
  check_says(refusal(packed, asked, 2, 1),
             {"--quantize is int4", "packed as int8", "--tp 2 --pp 1 --dtype bfloat16 --quantize int4"});
  asked = {};
  asked.experts = "spread";
  check_says(refusal(packed, asked, 2, 1), {"--experts is spread", "packed as auto", "--experts spread"});

  PackedLayout layout = *read_packed_layout(packed.folder.path());
  layout.packing = "cuda-rows-1";
  write_packed_layout(layout);
  check_says(refusal(packed, {}, 2, 1),
             {"packed for GPUs (cuda-rows-1), and this run is on CPUs", "made of (org/model)",
              "(sluice convert org/model OUT --tp 2 --pp 1 --dtype bfloat16 --quantize int8)", "--device cuda"});
  layout.packing = "cpu-panels-0";
  write_packed_layout(layout);
  check_says(refusal(packed, {}, 2, 1), {"packed as cpu-panels-0", "expects cpu-panels-1", "sluice convert org/model"});

  layout.source = "it's $(here)";
  write_packed_layout(layout);
  check_says(refusal(packed, {}, 2, 1), {"sluice convert 'it'\\''s $(here)' OUT"});
  layout.source = "\x1b[2J";
  write_packed_layout(layout);
  check_says(refusal(packed, {}, 2, 1), {"\"source\" has control characters"});
}

TEST_CASE("Packed files that are cut off, exchanged or of another config are refused before a kernel sees them") {
  const Packed packed(test::read_golden("llama2_gqa"), *test::cpu_backend(), 2, 1, "auto", "");
  const fs::path one = packed.folder.path() / "rank0.safetensors", two = packed.folder.path() / "rank1.safetensors";
  const auto size = fs::file_size(one);
  fs::resize_file(one, size - 64);
  check_says(refusal(packed, {}, 2, 1), {"rank0.safetensors", fmt::format("{} bytes, expected {}", size - 64, size)});
  PackedLayout layout = *read_packed_layout(packed.folder.path());
  layout.files[0].bytes = size - 64;
  write_packed_layout(layout);
  check_says(refusal(packed, {}, 2, 1), {"rank0.safetensors is not a usable safetensors file"});
  fs::remove(one);
  check_says(refusal(packed, {}, 2, 1), {"rank0.safetensors"});

  const Packed stages(test::read_golden("llama2_gqa"), *test::cpu_backend(), 1, 2, "auto", "");
  layout = *read_packed_layout(stages.folder.path());
  std::swap(layout.files[0], layout.files[1]);
  write_packed_layout(layout);
  check_says(refusal(stages, {}, 1, 2), {"it holds no table model.embed_tokens.weight", "pack it again"});

  const Packed other(test::read_golden("llama2_gqa"), *test::cpu_backend(), 1, 1, "auto", "");
  fs::copy_file(test::read_golden("llama1").folder / "config.json", other.folder.path() / "config.json",
                fs::copy_options::overwrite_existing);
  check_says(refusal(other, {}, 1, 1), {"pack it again"});
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Models whose weights lie in other layouts or in fewer bits.
#include <doctest/doctest.h>

#include <cstring>
#include <map>

#include "model/cpu_backend.h"
#include "model/quantised_files.h"
#include "model/run_model.h"
#include "places.h"
#include "weights/safetensors_file.h"
#include "weights/write.h"

namespace sluice {
namespace {
using test::Golden;
using test::ModelRunner;
using test::Outcome;

std::unique_ptr<Model> load(const Golden& golden, const std::string& quantize, Backend& backend, Groups& groups) {
  ModelSource source;
  source.folder = golden.folder;
  source.dtype = "float32";
  source.quantize = quantize;
  source.quiet = true;
  return load_model(source, backend, groups);
}

// The checkpoint of a golden case with its experts stacked as transformers 5 holds them. `mixtral`: it names them so.
class Stacked {
 public:
  Stacked(const std::string& name, bool mixtral) : golden(test::read_golden(name)) {
    const Checkpoint from = Checkpoint::open(golden.folder, "");
    const std::string experts = mixtral ? ".block_sparse_moe.experts." : ".mlp.experts.";
    std::map<std::string, std::map<int, std::map<std::string, const CheckpointTensor*>>> layers;
    for (const CheckpointTensor& tensor : from.tensors()) {
      const size_t at = tensor.name.find(experts);
      if (at == std::string::npos) {
        std::string own = tensor.name;
        if (const size_t gate = own.find(".block_sparse_moe.gate."); gate != std::string::npos)
          own.replace(gate, 18, ".mlp.");
        tensors.push_back({own, tensor.stored_dtype, tensor.shape, bytes(from, tensor)});
        continue;
      }
      const std::string rest = tensor.name.substr(at + experts.size());
      layers[tensor.name.substr(0, at)][std::stoi(rest)][rest.substr(rest.find('.') + 1)] = &tensor;
    }
    const char* parts[] = {mixtral ? "w1.weight" : "gate_proj.weight", mixtral ? "w3.weight" : "up_proj.weight",
                           mixtral ? "w2.weight" : "down_proj.weight"};
    for (auto& [layer, each] : layers) {
      const CheckpointTensor &gate = *each[0][parts[0]], &down = *each[0][parts[2]];
      const auto n = static_cast<int64_t>(each.size());
      test::NamedTensor in{
          layer + ".mlp.experts.gate_up_proj", gate.stored_dtype, {n, 2 * gate.shape[0], gate.shape[1]}, ""};
      test::NamedTensor out{layer + ".mlp.experts.down_proj", down.stored_dtype, {n, down.shape[0], down.shape[1]}, ""};
      for (auto& [expert, named] : each) {
        in.data += bytes(from, *named[parts[0]]) + bytes(from, *named[parts[1]]);
        out.data += bytes(from, *named[parts[2]]);
      }
      tensors.push_back(in);
      tensors.push_back(out);
    }
    std::filesystem::copy_file(golden.folder / "config.json", folder.path() / "config.json");
    golden.folder = folder.path();
  }
  void write() const { folder.write("model.safetensors", test::safetensors_bytes(tensors)); }
  test::NamedTensor& find(const std::string& end) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name.ends_with(end); });
  }

  Golden golden;
  std::vector<test::NamedTensor> tensors;
  test::TemporaryFolder folder;

 private:
  static std::string bytes(const Checkpoint& from, const CheckpointTensor& tensor) {
    const std::vector<char> whole = read_whole(from, tensor);
    return {whole.begin(), whole.end()};
  }
};

double spread(const std::vector<float>& logits) {
  double squares = 0;
  for (const float v : logits) squares += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(squares / static_cast<double>(logits.size()));
}
}  // namespace

TEST_CASE("Experts stacked as transformers 5 holds them give the reference's logits, split and spread") {
  for (const std::string name : {"mixtral/plain", "qwen3/moe", "qwen3/moe_mixed", "qwen3/qwen2_moe"}) {
    CAPTURE(name);
    const Stacked stacked(name, name == "mixtral/plain");
    stacked.write();
    for (const char* experts : {"split", "spread"}) {
      for (const int tp : {1, 2}) {
        const auto outcomes = test::run_ranks(stacked.golden, tp, 1, "float32", test::cpu_backend, experts);
        CHECK(test::max_difference(outcomes.back().logits, stacked.golden.logits) <= 1e-4);
        CHECK(outcomes.back().greedy == stacked.golden.greedy);
      }
    }
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const auto model = load(stacked.golden, "int8", *backend, groups),
               alone = load(test::read_golden(name), "int8", *backend, groups);
    CHECK(test::run_golden(*model, *backend, stacked.golden).logits ==
          test::run_golden(*alone, *backend, stacked.golden).logits);
  }
}

TEST_CASE("Stacked experts of another order or beside single ones are refused by name") {
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  {
    Stacked turned("mixtral/plain", true);  // [experts, H, 2 F], as other families write it
    auto& tensor = turned.find("1.mlp.experts.gate_up_proj");
    std::swap(tensor.shape[1], tensor.shape[2]);
    turned.write();
    CHECK_THROWS_WITH_AS(load(turned.golden, "", *backend, groups),
                         doctest::Contains("layers.1.mlp.experts.gate_up_proj"), Error);
    CHECK_THROWS_WITH_AS(load(turned.golden, "", *backend, groups), doctest::Contains("expected shape ["), Error);
  }
  Stacked both("qwen3/moe", false);
  const auto& gate = both.find("0.mlp.experts.gate_up_proj");
  const int64_t rows = gate.shape[1] / 2, cols = gate.shape[2];
  both.tensors.push_back({"model.layers.0.mlp.experts.0.gate_proj.weight",
                          "F32",
                          {rows, cols},
                          std::string(static_cast<size_t>(rows * cols * 4), '\0')});
  both.write();
  CHECK_THROWS_WITH_AS(load(both.golden, "", *backend, groups),
                       doctest::Contains("expected experts stacked or one by one"), Error);
}

TEST_CASE("A FasterTransformer folder has the logits of the GPT-2 that it was made of, on one rank and on two") {
  Golden golden = test::read_golden("gpt2/plain");
  golden.folder = test::source_dir() / "tests/golden/checkpoints/faster_transformer";
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  const auto model = load(golden, "", *backend, groups);
  const Outcome outcome = test::run_golden(*model, *backend, golden);
  CHECK(test::max_difference(outcome.logits, golden.logits) <= 1e-4);
  CHECK(outcome.greedy == golden.greedy);
  for (const Outcome& rank : test::run_ranks(golden, 2, 1, "float32", test::cpu_backend))
    CHECK(test::max_difference(rank.logits, golden.logits) <= 1e-4);
}

TEST_CASE("Checkpoints quantised elsewhere have the logits of the floats that they mean, whole, split and in stages") {
  for (const std::string kind : test::kQuantisedKinds) {
    CAPTURE(kind);
    const test::QuantisedFiles files("rope_yarn", kind);
    const auto backend = test::cpu_backend();
    Groups groups = solo_groups();
    const std::vector<float> expected =
        test::run_golden(*load(files.meant, "", *backend, groups), *backend, files.meant).logits;
    CHECK(load(files.golden, "", *backend, groups)->info().quantised.empty() == !files.stays(*backend));
    for (const auto& layout : {std::pair{1, 1}, std::pair{2, 1}, std::pair{4, 1}, std::pair{1, 2}}) {
      const int tp = layout.first, pp = layout.second;
      CAPTURE(tp);
      const Outcome last = test::run_ranks(files.golden, tp, pp, "float32", test::cpu_backend).back();
      // Where numbers of few bits are multiplied, activations are rounded to 8.
      const double tolerance = files.stays(*backend) ? 0.25 * spread(expected) : 1e-4;
      CHECK(test::max_difference(last.logits, expected) <= tolerance);
    }
  }
}

TEST_CASE("Experts in blocks of 4-bit floats stay near the reference where activations are rounded to 8 bits") {
  const Golden golden = test::read_golden("gpt_oss/mxfp4");
  const auto backend = test::cpu_backend();
  Groups groups = solo_groups();
  const auto model = load(golden, "", *backend, groups);
  CHECK(model->info().quantised == "int8 (mxfp4)");
  const Outcome outcome = test::run_golden(*model, *backend, golden);
  CHECK(test::max_difference(outcome.logits, golden.logits) <= 0.25 * spread(golden.logits));
}

TEST_CASE("Quantised while loading, logits stay near the reference and do not depend on how a prompt is cut") {
  for (const char* name : {"llama2_gqa", "gpt2/plain", "qwen2"}) {
    for (const std::string scheme : {"int8", "int4"}) {
      const double tolerance = scheme == "int8" ? 0.08 : 0.8;
      CAPTURE(name);
      CAPTURE(scheme);
      const Golden golden = test::read_golden(name);
      const auto backend = test::cpu_backend();
      Groups groups = solo_groups();
      const auto model = load(golden, scheme, *backend, groups), again = load(golden, scheme, *backend, groups);
      CHECK(model->info().quantised == scheme);
      ModelRunner whole(*model, *backend), pieces(*again, *backend);
      const std::vector<float> logits = whole.step({{1, golden.prompt}});
      double squares = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        const double off = static_cast<double>(logits[i]) - static_cast<double>(golden.logits[i]);
        squares += off * off;
      }
      CHECK(std::sqrt(squares / static_cast<double>(logits.size())) < tolerance * spread(golden.logits));
      std::vector<float> cut;
      for (size_t i = 0; i < golden.prompt.size(); i += 3) {
        const std::vector<int32_t> now(
            golden.prompt.begin() + static_cast<std::ptrdiff_t>(i),
            golden.prompt.begin() + static_cast<std::ptrdiff_t>(std::min(i + 3, golden.prompt.size())));
        const std::vector<float> some = pieces.step({{1, now}});
        cut.insert(cut.end(), some.begin(), some.end());
      }
      REQUIRE(cut.size() == logits.size());
      CHECK(std::memcmp(cut.data(), logits.data(), cut.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace sluice

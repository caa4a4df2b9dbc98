// SPDX-License-Identifier: Apache-2.0
// Every family on the CUDA backend, beside transformers' logits and tokens.
#include <set>

#include "backend/row_form.h"
#include "comm/communicator.h"
#include "cuda/backend/twin.h"
#include "model/packed_folder.h"
#include "model/quantised_files.h"
#include "model/run_model.h"

namespace sluice {
namespace {

// Between ranks that are threads: waits for the device first, whose memory is the host's here.
class Waiting final : public Communicator {
 public:
  Waiting(std::unique_ptr<Communicator> inner, Backend& backend)
      : inner_(std::move(inner)), backend_(backend), probe_(backend.allocate(sizeof(float))) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void all_reduce(const Tensor& inout) override { waited().all_reduce(inout); }
  void all_gather(const Tensor& out, const Tensor& in) override { waited().all_gather(out, in); }
  void broadcast(const Tensor& inout, int root) override { waited().broadcast(inout, root); }
  void send(const Tensor& data, int to) override { waited().send(data, to); }
  void recv(const Tensor& data, int from) override { waited().recv(data, from); }

 private:
  Communicator& waited() {
    float value = 0;
    backend_.copy_out(&value, probe_.view(DType::kF32, {1}));
    return *inner_;
  }
  std::unique_ptr<Communicator> inner_;
  Backend& backend_;
  Buffer probe_;
};

Groups waiting(Groups groups, Backend& backend) {
  if (groups.tp_size() > 1) groups.tp = std::make_unique<Waiting>(std::move(groups.tp), backend);
  if (groups.stages() > 1) groups.pp = std::make_unique<Waiting>(std::move(groups.pp), backend);
  return groups;
}

std::unique_ptr<Backend> cuda() { return test::make_cuda(); }

}  // namespace

TEST_CASE("every case has the reference's logits and 8 greedy tokens, on one rank and over every layout") {
  std::set<std::string> families;
  for (const std::string& name : test::golden_cases()) {
    CAPTURE(name);
    test::Golden golden = test::read_golden(name);
    golden.greedy.resize(8);
    for (const auto& layout : {std::pair{1, 1}, std::pair{2, 1}, std::pair{4, 1}, std::pair{1, 2}}) {
      const int tp = layout.first, pp = layout.second;
      CAPTURE(tp);
      CAPTURE(pp);
      const test::Outcome last = test::run_ranks(golden, tp, pp, "float32", cuda, "auto", "", waiting).back();
      const double difference = test::max_difference(last.logits, golden.logits);
      CAPTURE(difference);
      CHECK(difference <= 1e-4);
      CHECK(last.greedy == golden.greedy);
    }
    ModelSource source;
    source.folder = golden.folder;
    families.insert(read_model_info(source).family);
  }
  for (const FamilyNames& family : family_names()) {
    CAPTURE(family.name);
    CHECK(families.contains(family.name));
  }
}

TEST_CASE("experts split over ranks or spread over them give the reference's logits and tokens") {
  for (const char* name :
       {"mixtral/odd_window", "qwen3/moe_mixed", "qwen3/qwen2_moe", "gpt_oss/plain", "gpt_oss/mxfp4"}) {
    for (const char* experts : {"split", "spread"}) {
      CAPTURE(name);
      CAPTURE(experts);
      test::Golden golden = test::read_golden(name);
      golden.greedy.resize(8);
      const test::Outcome last = test::run_ranks(golden, 2, 1, "float32", cuda, experts, "", waiting).back();
      CHECK(test::max_difference(last.logits, golden.logits) <= 1e-4);
      CHECK(last.greedy == golden.greedy);
    }
  }
}

TEST_CASE("checkpoints quantised elsewhere have the logits of the floats that they mean, whole and split") {
  for (const char* kind : test::kQuantisedKinds) {
    CAPTURE(kind);
    test::QuantisedFiles files("rope_yarn", kind);
    files.golden.greedy.resize(4), files.meant.greedy.resize(4);
    const std::vector<float> expected = test::run_ranks(files.meant, 1, 1, "float32", cuda).back().logits;
    const auto backend = cuda();
    Groups groups = solo_groups();
    CHECK_FALSE(test::load_golden(files.golden, "float32", *backend, groups)->info().quantised.empty());
    for (const int tp : {1, 2}) {
      CAPTURE(tp);
      const test::Outcome last = test::run_ranks(files.golden, tp, 1, "float32", cuda, "auto", "", waiting).back();
      CHECK(test::max_difference(last.logits, expected) <= 1e-4);
    }
  }
}

TEST_CASE("layers of fp8, fused, of experts or of heads that do not divide, mean their floats over ranks and stages") {
  struct Case {
    const char *name, *kind, *experts;
    int tp, pp;
  };
  for (const Case& c : {Case{"rope_yarn", "fp8_blocks", "auto", 4, 1}, Case{"rope_yarn", "fp8_torch", "auto", 2, 2},
                        Case{"phi3/partial", "fp8_blocks", "auto", 2, 1}, Case{"odd_counts", "fp8_rows", "auto", 2, 1},
                        Case{"odd_counts", "fp8", "auto", 4, 1}, Case{"qwen3/moe", "fp8_rows", "split", 2, 1},
                        Case{"qwen3/moe", "fp8", "spread", 2, 1}, Case{"qwen3/qwen2_moe", "fp8_rows", "auto", 2, 1}}) {
    CAPTURE(c.name);
    CAPTURE(c.kind);
    CAPTURE(c.tp);
    test::QuantisedFiles files(c.name, c.kind);
    files.golden.greedy.resize(4), files.meant.greedy.resize(4);
    const test::Outcome expected = test::run_ranks(files.meant, 1, 1, "float32", cuda).back();
    const auto ranks = test::run_ranks(files.golden, c.tp, c.pp, "float32", cuda, c.experts, "", waiting);
    for (size_t rank = ranks.size() - static_cast<size_t>(c.tp); rank < ranks.size(); ++rank) {
      CAPTURE(rank);
      const double difference = test::max_difference(ranks[rank].logits, expected.logits);
      CAPTURE(difference);
      CHECK(difference <= 1e-4);
      CHECK(ranks[rank].greedy == expected.greedy);
    }
  }
}

TEST_CASE("packed without a GPU, weights give the bits of those that are packed while loading") {
  const auto packer = make_row_packer({});
  const auto check_same = [&](test::Golden golden, const std::string& dtype, const std::string& quantize) {
    CAPTURE(golden.folder.string());
    CAPTURE(quantize);
    golden.greedy.resize(4);
    const test::Packed packed(golden, *packer, 1, 1, dtype, quantize);
    const auto expected = test::run_ranks(golden, 1, 1, dtype, cuda, "auto", quantize).back(),
               found = test::run_ranks(packed.golden, 1, 1, "auto", cuda).back();
    CHECK(found.logits == expected.logits);
    CHECK(found.greedy == expected.greedy);
  };
  check_same(test::read_golden("llama2_gqa"), "bfloat16", "");
  check_same(test::read_golden("gpt2/plain"), "float32", "int8");
  check_same(test::read_golden("mixtral/plain"), "float16", "int4");
  check_same(test::read_golden("t5/flan"), "float32", "");
  for (const char* kind : test::kQuantisedKinds) check_same(test::QuantisedFiles("rope_yarn", kind).golden, "auto", "");
  const test::Packed packed(test::read_golden("llama2_gqa"), *packer, 1, 1, "auto", "");
  PackedLayout layout = *read_packed_layout(packed.golden.folder);
  layout.packing = "cpu-panels-1";
  write_packed_layout(layout);
  const auto backend = cuda();
  Groups groups = solo_groups();
  CHECK_THROWS_WITH_AS(test::load_golden(packed.golden, "auto", *backend, groups),
                       doctest::Contains("packed for CPUs (cpu-panels-1), and this run is on GPUs"), Error);
}

TEST_CASE("a T5 whose activations leave the range of float16 is clamped as in transformers, and has no NaN") {
  const test::Golden golden = test::read_golden("t5/flan");
  const Checkpoint from = Checkpoint::open(golden.folder, "");
  std::vector<test::NamedTensor> tensors;
  for (const CheckpointTensor& tensor : from.tensors()) {
    std::vector<float> values = test::read_floats(from, tensor.name);
    if (tensor.name.ends_with("DenseReluDense.wo.weight")) {  // to what float16 just holds
      float largest = 0;
      for (const float v : values) largest = std::max(largest, std::abs(v));
      for (float& v : values) v *= 60000.0f / largest;
    }
    tensors.push_back({tensor.name, "F32", tensor.shape,
                       std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))});
  }
  const test::TemporaryFolder folder;
  folder.write("config.json", read_file(golden.folder / "config.json"));
  folder.write("model.safetensors", test::safetensors_bytes(tensors));
  test::Golden large = golden;
  large.folder = folder.path();
  large.greedy.resize(8);
  const std::vector<float> logits = test::run_ranks(large, 1, 1, "float16", cuda).back().logits;
  CHECK(std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }));
}

TEST_CASE("models with weights of 8 and 4 bits stay close to the CPU backend's") {
  for (const char* quantize : {"int8", "int4"}) {
    CAPTURE(quantize);
    const test::Golden golden = test::read_golden("llama2_gqa");
    const auto logits = [&](Backend& backend) {
      ModelSource source;
      source.folder = golden.folder;
      source.quantize = quantize;
      source.quiet = true;
      Groups groups = solo_groups();
      const auto model = load_model(source, backend, groups);
      CHECK(model->info().quantised == quantize);
      return test::ModelRunner(*model, backend).step({{0, golden.prompt}});
    };
    const auto cpu = make_cpu_backend({});
    const auto cuda = test::make_cuda();
    const std::vector<float> expected = logits(*cpu), got = logits(*cuda);
    double spread = 0;
    for (const float v : expected) spread = std::max(spread, std::abs(static_cast<double>(v)));
    CHECK(test::max_difference(got, expected) < 0.05 * spread);  // the CPU rounds activations too
  }
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
// Every kernel once or twice with all its memory accesses watched. Findings fail in DeviceBytes.
#include "cache.h"
#include "cuda/attention_step.h"
#include "experts.h"
#include "gemv.h"
#include "narrow.h"
#include "rows.h"
#include "sampling.h"

namespace sluice {
namespace {
using namespace test;

struct Watched {
  Watched() { emulation::set_watch(true); }
  ~Watched() {
    cudaDeviceSynchronize();
    emulation::set_watch(false);
  }
};

TEST_CASE("rows and cache: no access is out of place") {
  const Watched watched;
  std::mt19937 random(31);
  for (const int64_t width : {72, 13}) {
    const Type type = Type::kBF16;
    DeviceMatrix x(type, 2, 2 * width, 8), y(type, 2, width, 8), r(type, 2, width, 8);
    x.fill(normal(random, 4 * width, type));
    y.fill(normal(random, 2 * width, type));
    r.fill(normal(random, 2 * width, type));
    const DeviceVector<float> w(normal(random, width));
    const DeviceVector<int32_t> ids(std::vector<int32_t>{1, 0});
    CUDA_OK(
        kernels::embed({y.data(), x.data(), ids.data(), 2, width, 2, 0, y.stride(), x.stride(), type, type}, nullptr));
    for (const bool mean : {false, true}) {
      const kernels::NormParams p{y.data(), x.data(), r.data(),   w.data(),   mean ? w.data() : nullptr,
                                  2,        width,    y.stride(), x.stride(), r.stride(),
                                  1e-5f,    type};
      CUDA_OK(mean ? kernels::layer_norm(p, nullptr) : kernels::rms_norm(p, nullptr));
    }
    CUDA_OK(kernels::gated_activation(
        {y.data(), x.data(), 2, width, y.stride(), x.stride(), kernels::Function::kSilu, type}, nullptr));
    CUDA_OK(kernels::normed_gated_activation({y.data(), x.data(), r.data(), 2, width, width, y.stride(), x.stride(),
                                              r.stride(), 1e-5f, 1.0f, kernels::Function::kSilu, type},
                                             nullptr));
    CUDA_OK(kernels::scale_columns({y.data(), w.data(), 2, width, y.stride(), type}, nullptr));
    CUDA_OK(kernels::activation({y.data(), 2, width, y.stride(), kernels::Function::kRelu, type}, nullptr));
    CUDA_OK(kernels::add({y.data(), r.data(), w.data(), 2, width, y.stride(), r.stride(), type}, nullptr));
    CUDA_OK(
        kernels::gather_rows({y.data(), r.data(), ids.data(), 2, width * 2, y.stride() * 2, r.stride() * 2}, nullptr));
    CUDA_OK(kernels::convert({y.data(), r.data(), 2, width, y.stride(), r.stride(), type, type}, nullptr));
    CUDA_OK(kernels::copy_blocks({x.data(), ids.data(), 1, width * 4, x.stride() * 2}, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
  }
}

TEST_CASE("products: no access is out of place") {
  const Watched watched;
  std::mt19937 random(32);
  for (const Type type : {Type::kBF16, Type::kF32}) {
    for (const auto& [rows, k] : {std::pair<int64_t, int64_t>{3, 72}, {18, 72}, {8, 2056}}) {
      for (const bool gated : {false, true}) {
        const int64_t n = 20;
        DeviceMatrix x(type, rows, k, 8), weight(type, 2 * n, k, 8), out(type, rows, n, 3), residual(type, rows, n, 5);
        x.fill(normal(random, rows * k, type));
        weight.fill(normal(random, 2 * n * k, type));
        out.fill(normal(random, rows * n, type));
        residual.fill(normal(random, rows * n, type));
        const DeviceVector<float> bias(normal(random, 2 * n)), norm(normal(random, k));
        kernels::GemvParams p{};
        p.out = out.data();
        p.x = x.data();
        p.weight = weight.data();
        p.bias = bias.data();
        p.residual = gated ? nullptr : residual.data();
        p.rows = rows;
        p.n = n;
        p.k = k;
        p.out_stride = out.stride();
        p.x_stride = x.stride();
        p.weight_stride = weight.stride();
        p.residual_stride = residual.stride();
        p.gated = gated;
        p.function = gated ? kernels::Function::kSilu : kernels::Function::kNone;
        p.type = p.out_type = type;
        p.norm_weight = k == 72 && kernels::gemv_can_norm(p) ? norm.data() : nullptr;
        CUDA_OK(kernels::gemv(p, nullptr));
        CUDA_OK(cudaDeviceSynchronize());
      }
    }
  }
}

TEST_CASE("experts: no access is out of place") {
  const Watched watched;
  std::mt19937 random(34);
  const int32_t rows = 150, experts = 6, k = 2, first = 1, local = 4;
  const int64_t places = rows * k, width = 24, depth = 40;
  const DeviceVector<float> logits(normal(random, rows * experts)),
      weights(std::vector<float>(static_cast<size_t>(places)));
  const DeviceVector<int32_t> none(std::vector<int32_t>(static_cast<size_t>(places)));
  const DeviceVector<int32_t> offsets(std::vector<int32_t>(local + 1)), rows_of(none.read()), place_of(none.read());
  CUDA_OK(kernels::route({offsets.data(), rows_of.data(), place_of.data(), weights.data(), none.data(), logits.data(),
                          rows, experts, k, experts, k, first, local, true},
                         nullptr));
  for (const Type type : {Type::kBF16, Type::kF32}) {
    DeviceMatrix x(type, places, depth, 8), matrix(type, width, depth, 8), y(type, places, width, 8),
        out(type, rows, width, 8), gate(type, rows, 1, 7);
    x.fill(normal(random, places * depth, type));
    matrix.fill(normal(random, width * depth, type));
    y.fill(normal(random, places * width, type));
    gate.fill(normal(random, rows, type));
    const DeviceVector<const void*> matrices(std::vector<const void*>(local, matrix.data()));
    kernels::GemvParams p{};
    p.out = y.data();
    p.x = x.data();
    p.weight = matrix.data();
    p.rows = places;
    p.n = width;
    p.k = depth;
    p.out_stride = y.stride();
    p.x_stride = x.stride();
    p.weight_stride = matrix.stride();
    p.weights = matrices.data();
    p.offsets = offsets.data();
    p.groups = local;
    p.function = kernels::Function::kNone;
    p.type = p.out_type = type;
    CUDA_OK(kernels::gemv(p, nullptr));
    CUDA_OK(kernels::combine(
        {out.data(), y.data(), place_of.data(), weights.data(), rows, width, out.stride(), y.stride(), k, k, type},
        nullptr));
    CUDA_OK(kernels::add_gated(
        {out.data(), y.data(), gate.data(), rows, width, out.stride(), y.stride(), gate.stride(), type}, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
  }
}

TEST_CASE("weights of few bits: no access is out of place") {
  const Watched watched;
  std::mt19937 random(35);
  for (const kernels::Bits bits :
       {kernels::Bits::kEight, kernels::Bits::kFour, kernels::Bits::kEightGroups, kernels::Bits::kFloat8}) {
    for (const int64_t depth : {128, 70}) {
      const int64_t rows = 10, width = 11, stride = (depth + 15) / 16 * 16;
      std::vector<uint8_t> bytes(static_cast<size_t>(width * stride));
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      const DeviceVector<uint8_t> numbers(bytes);
      const DeviceVector<float> scales(std::vector<float>(static_cast<size_t>(width * 2), 0.01f));
      const DeviceVector<uint16_t> groups(std::vector<uint16_t>(static_cast<size_t>(width * 2 * 3), f32_to_f16(0.5f)));
      const kernels::NarrowMatrix w{
          numbers.data(), scales.data(), groups.data(), nullptr, width, depth, stride, 64, bits};
      DeviceMatrix x(Type::kBF16, rows, depth, 8), out(Type::kBF16, rows, width, 3), wide(Type::kBF16, width, depth, 8);
      x.fill(normal(random, rows * depth, Type::kBF16));
      kernels::NarrowParams p{};
      p.w = w;
      p.out = out.data();
      p.x = x.data();
      p.rows = rows;
      p.out_stride = out.stride();
      p.x_stride = x.stride();
      p.type = p.out_type = Type::kBF16;
      CUDA_OK(kernels::narrow_gemv(p, nullptr));
      CUDA_OK(kernels::widen({w, wide.data(), wide.stride(), Type::kBF16}, nullptr));
      CUDA_OK(cudaDeviceSynchronize());
    }
  }
}

TEST_CASE("attention: no access is out of place") {
  const Watched watched;
  Heads encoder{2, 2, 64, 16, 0, false};
  encoder.all_keys = true;
  encoder.reach = 30;
  encoder.sink = 1;
  for (const Heads& heads : {Heads{4, 2, 64, 16, 0, false}, Heads{3, 1, 24, 8, 30, true}, encoder}) {
    Step mixed(heads, Type::kBF16, {{70, 3}, {40, 1}, {0, 0}}, 1);
    for (const bool warpgroups : {true, false}) {
      emulation::set_warpgroup_products(warpgroups);
      mixed.run();
    }
    Step decode(heads, Type::kBF16, {{150, 1}, {70, 1}}, 1);
    decode.grid = 3;
    decode.decode_only = true;
    decode.run();
    if (!heads.all_keys) decode.run_fresh(20, true);
  }
}

TEST_CASE("sampling: no access is out of place") {
  const Watched watched;
  std::mt19937 random(33);
  const int64_t vocab = 530;
  std::vector<kernels::SlotParams> slots(4);
  const DeviceVector<int32_t> eos(std::vector<int32_t>{3, 4}), history(std::vector<int32_t>{5, 6, 5, 7, 5, 900});
  const DeviceVector<kernels::TokenBias> bias(std::vector<kernels::TokenBias>{{9, 1.0f}, {9, 2.0f}, {-1, 1.0f}});
  const DeviceVector<kernels::TokenAt> forced(std::vector<kernels::TokenAt>{{5, 8, 0}});
  const DeviceVector<uint32_t> mask(std::vector<uint32_t>(17, 0xf0f0f0f0u));
  const DeviceVector<int32_t> bad_words(std::vector<int32_t>{1, 3, 2, 5, 6});
  std::vector<int32_t> even, so_far{5, 6, 5, 7, 5, 900, 0, 0};
  for (int32_t i = 0; i < vocab; i += 2) even.push_back(i);
  const DeviceVector<int32_t> allowed(even), ids(so_far);
  const DeviceVector<kernels::TokenSequence> sequences(
      std::vector<kernels::TokenSequence>{{}, {ids.data(), 6, 8}, {}, {}});
  for (size_t i = 0; i < 3; ++i) {
    kernels::SlotParams& s = slots[i];
    s.greedy = i == 2;
    s.temperature = s.repetition_penalty = 1.0f;
    s.top_p = s.typical_p = i == 0 ? 1.0f : 0.9f;
    if (i != 0) s.top_k = 40;
    if (i != 0) s.min_p = 0.01f;
    s.frequency_penalty = i == 1 ? 0.5f : 0.0f;
    s.n_logprobs = static_cast<int32_t>(i) * 4;
    s.raw_logprobs = i == 2;
    s.eos_from = 10;
    s.eos = {eos.data(), 2};
    s.suppress = s.allowed = s.begin_suppress = {i == 1 ? eos.data() : nullptr, i == 1 ? 1 : 0};
    s.allowed = {allowed.data(), i == 1 ? static_cast<int32_t>(vocab) / 2 : 0};
    s.bad_words = {bad_words.data(), i == 1 ? 5 : 0};
    s.no_repeat_ngram = i == 1 ? 2 : 0;
    s.decay = {eos.data(), 2};
    s.decay_factor = i == 2 ? 1.5f : 1.0f;
    s.epsilon_cutoff = s.eta_cutoff = i == 1 ? 0.0001f : 0.0f;
    s.forced = forced.data();
    s.n_forced = i == 2 ? 1 : 0;
    s.mask = i == 0 ? mask.data() : nullptr;
    s.logit_bias = bias.data();
    s.n_bias = 3;
  }
  slots[3] = slots[0];  // a step that lists candidates of a slot draws nothing of it
  const DeviceVector<kernels::SlotParams> d_slots(slots);
  const DeviceVector<float> logits(normal(random, 3 * vocab, Type::kBF16));
  const DeviceVector<int32_t> entries(
      std::vector<int32_t>{0, 0, 5, -1, 1, 1, 5, -1, 2, 2, 5, -1, 1, 2, 5, 17, 0, 3, 5, -3});
  const DeviceVector<uint16_t> counts(std::vector<uint16_t>(4 * vocab));
  const DeviceVector<int32_t> last(std::vector<int32_t>(4));
  const DeviceVector<kernels::TokenResult> out(std::vector<kernels::TokenResult>(5));
  DeviceBytes scratch(5 * vocab * 4);
  CUDA_OK(kernels::set_history({counts.data() + vocab, history.data(), vocab, 6, 4}, nullptr));
  CUDA_OK(kernels::sample({out.data(), logits.data(), entries.data(), d_slots.data(), sequences.data(), counts.data(),
                           last.data(), static_cast<float*>(scratch.data()), 5, vocab, vocab, vocab},
                          nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  CHECK(counts.read()[static_cast<size_t>(vocab + 5)] >= 0x8002);  // one of three fives is the prompt's
}

}  // namespace
}  // namespace sluice

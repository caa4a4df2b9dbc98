// SPDX-License-Identifier: Apache-2.0
// Memory, copies, recorded steps and sampling of the CUDA backend.
#include <cstdlib>
#include <cstring>

#include <algorithm>
#include <numeric>
#include <thread>
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/quantise.h"
#include "base/error.h"

#include "cuda/backend/twin.h"
#include "model/e4m3.h"
#include "sample/params.h"

namespace sluice {
namespace {
using test::Side;

TEST_CASE("memory comes zeroed, keeps copies of any shape and is refused beyond what there is") {
  const auto gpu = test::make_cuda();
  const Buffer buffer = gpu->allocate(1000);
  std::vector<char> bytes(1000, 1);
  gpu->copy_out(bytes.data(), buffer.view(DType::kU8, {1000}));
  CHECK(bytes == std::vector<char>(1000, 0));

  // Larger than the ring of page-locked memory, in rows that do not divide its parts.
  const int64_t rows = 700, cols = 9001, stride = 9100;
  const Buffer large = gpu->allocate(static_cast<size_t>(rows * stride) * 4);
  std::vector<int32_t> in(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int32_t>(i * 2654435761u);
  const std::vector<int32_t> kept = in;
  gpu->copy_in(large.view(DType::kI32, {rows, stride}).columns(0, cols), in.data());
  std::fill(in.begin(), in.end(), -1);  // the source may be reused at once
  std::vector<int32_t> out(static_cast<size_t>(rows * stride));
  gpu->copy_out(out.data(), large.view(DType::kI32, {rows * stride}));
  bool same = true;
  for (int64_t r = 0; r < rows; ++r)
    same = same && std::memcmp(&out[static_cast<size_t>(r * stride)], &kept[static_cast<size_t>(r * cols)],
                               static_cast<size_t>(cols) * 4) == 0;
  CHECK(same);
  CHECK(gpu->free_bytes() > 0);
  CHECK_THROWS_AS(gpu->allocate(size_t{1} << 46), Error);
}

TEST_CASE("results come back in the order in which they were asked for, each as it was then") {
  Side gpu(test::make_cuda(), DType::kF32);
  const Tensor x = gpu.matrix({1, 2, 3, 4}, 1, 4);
  for (int i = 0; i < Backend::kCopiesOut; ++i) {
    gpu->start_copy_out(x);
    gpu->add(x, x);
  }
  for (int i = 0; i < Backend::kCopiesOut; ++i) {
    float got[4];
    gpu->finish_copy_out(got);
    for (int e = 0; e < 4; ++e) CHECK(got[e] == static_cast<float>((e + 1) << i));
  }
}

TEST_CASE("weights are packed and converted on the device, from page-locked memory without a copy on the host") {
  std::mt19937 random(7);
  const int64_t n = 19, k = 27;
  for (const DType from : test::kTypes) {
    for (const DType to : test::kTypes) {
      Side gpu(test::make_cuda(), to);
      const auto values = test::normal(random, n * k, from);
      const Buffer staging = gpu->allocate_staging(values.size() * dtype_bytes(from));
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t narrow = from == DType::kBF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
        char* at = static_cast<char*>(staging.data()) + i * dtype_bytes(from);
        std::memcpy(at, from == DType::kF32 ? static_cast<const void*>(&values[i]) : &narrow, dtype_bytes(from));
      }
      const auto weight = gpu->pack({staging.data(), from, n, k, k}, test::scheme_of(to));
      const Buffer copy = gpu->allocate(values.size() * dtype_bytes(to));
      REQUIRE(gpu->copy_in_converted(copy.view(to, {n * k}), staging.data(), from));
      gpu->wait_copies(gpu->mark_copies());
      std::memset(staging.data(), 0xff, staging.bytes());
      // Rows of the unit matrix, one product each, give the weight back.
      std::vector<float> unit(static_cast<size_t>(k * k));
      for (int64_t i = 0; i < k; ++i) unit[static_cast<size_t>(i * k + i)] = 1;
      const Tensor out = gpu.empty(k, n);
      gpu->linear(out, gpu.matrix(unit, k, k), *weight, {});
      const auto got = gpu.read(out), table = gpu.read(copy.view(to, {n, k}));
      bool same = true;
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < k; ++c) {
          const float want = test::rounded(values[static_cast<size_t>(r * k + c)], to);
          same = same && got[static_cast<size_t>(c * n + r)] == want && table[static_cast<size_t>(r * k + c)] == want;
        }
      }
      CHECK(same);
    }
  }
}

TEST_CASE("memory to load from is CUDA's own where a system registers no other") {
  const auto gpu = test::make_cuda();
  for (const bool registers : {true, false}) {
    if (!registers) ::setenv("SLUICE_EMULATION_REGISTERS_NONE", "1", 1);
    const Buffer staging = gpu->allocate_staging(5000);
    ::unsetenv("SLUICE_EMULATION_REGISTERS_NONE");
    std::memset(staging.data(), 42, staging.bytes());
    const Buffer copy = gpu->allocate(5000);
    const Tensor bytes = copy.view(DType::kU8, {5000});
    gpu->copy_in(bytes, staging.data());
    gpu->wait_copies(gpu->mark_copies());
    std::memset(staging.data(), 7, staging.bytes());
    std::vector<char> got(5000);
    gpu->copy_out(got.data(), bytes);
    CHECK(got == std::vector<char>(5000, 42));
  }
}

TEST_CASE("weights of few bits multiply as the floats that they mean, for few rows and many") {
  std::mt19937 random(17);
  const int64_t n = 40, k = 100;
  for (const Scheme scheme : {Scheme::kInt8, Scheme::kInt4, Scheme::kInt8Groups, Scheme::kFp8})
    for (const bool given : {false, true})  // numbers of a checkpoint, or floats to be rounded
      for (const bool deterministic : {false, true})
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
          CAPTURE(given);
          CAPTURE(deterministic);
          if (!given && scheme > Scheme::kInt4) continue;
          const bool fp8 = scheme == Scheme::kFp8;
          Side gpu(test::make_cuda(deterministic), dtype);
          const bool wide = scheme == Scheme::kInt8;
          const int64_t group = wide ? k : given ? 32 : kInt4Group, groups = (k + group - 1) / group;
          const auto values = test::normal(random, n * k, dtype);
          std::vector<uint8_t> numbers;
          std::vector<float> scales, zeros, meant;
          for (int64_t r = 0; r < n; ++r) {
            QuantisedRow row{std::vector<uint8_t>(static_cast<size_t>(k)),
                             std::vector<float>(static_cast<size_t>(groups)),
                             std::vector<uint8_t>(static_cast<size_t>(groups), wide ? 128 : 0)};
            if (given) {
              for (auto& q : row.numbers)
                q = static_cast<uint8_t>(scheme == Scheme::kInt4 ? random() % 16 : random() % 127);
              for (auto& s : row.scales) s = 0.03125f;
              if (!wide)
                for (auto& z : row.zeros) z = static_cast<uint8_t>(random() % 16);
            } else {
              wide ? round_row_int8(row, values.data() + r * k, k) : round_row_int4(row, values.data() + r * k, k);
            }
            for (int64_t c = 0; c < k; ++c) {
              const auto g = static_cast<size_t>(c / group);
              const int zero = wide ? 128 : row.zeros[g], q = row.numbers[static_cast<size_t>(c)];
              meant.push_back((fp8 ? test::e4m3(q) : static_cast<float>(q - zero)) * row.scales[g]);
            }
            numbers.insert(numbers.end(), row.numbers.begin(), row.numbers.end());
            scales.insert(scales.end(), row.scales.begin(), row.scales.end());
            zeros.insert(zeros.end(), row.zeros.begin(), row.zeros.end());
          }
          const HostGroups host{group, scales.data(), fp8 ? nullptr : zeros.data(), nullptr};
          const HostMatrix source = given ? HostMatrix{numbers.data(), DType::kU8, n, k, k, &host}
                                          : HostMatrix{values.data(), DType::kF32, n, k, k, nullptr};
          const auto weight = gpu->pack(source, scheme);
          CHECK(weight->bytes() < static_cast<size_t>(n * k) * 2);
          for (const int64_t rows : {int64_t{1}, int64_t{7}, int64_t{40}}) {
            const auto x = test::normal(random, rows * k, dtype);
            const Tensor out = gpu.empty(rows, n);
            gpu->linear(out, gpu.matrix(x, rows, k), *weight, {});
            const auto got = gpu.read(out);
            bool close = true;
            for (int64_t t = 0; t < rows; ++t)
              for (int64_t r = 0; r < n; ++r) {
                double sum = 0, size = 0;
                for (int64_t c = 0; c < k; ++c) {
                  const double term = static_cast<double>(x[static_cast<size_t>(t * k + c)]) *
                                      static_cast<double>(meant[static_cast<size_t>(r * k + c)]);
                  sum += term;
                  size += std::abs(term);
                }
                // Many rows meet weights rounded to the type.
                const double slack = (dtype == DType::kF32          ? 1e-6
                                      : rows > 16 && !deterministic ? 0x1p-8
                                                                    : 1e-6) *
                                         size +
                                     test::half_ulp(dtype) * std::abs(sum);
                close = close && std::abs(static_cast<double>(got[static_cast<size_t>(t * n + r)]) - sum) <= slack;
              }
            CHECK(close);
          }
        }
}

TEST_CASE("columns in an order of their own multiply the inputs that they belong to, for few rows and many") {
  std::mt19937 random(9);
  const int64_t n = 12, k = 128, groups = 2;
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<uint8_t> q(static_cast<size_t>(n * k));
  for (uint8_t& number : q) number = static_cast<uint8_t>(random() % 16);
  const std::vector<float> scale(static_cast<size_t>(n * groups), 0.25f), zero(static_cast<size_t>(n * groups), 7.0f);
  const HostGroups ordered{k / groups, scale.data(), zero.data(), order.data()};
  Side gpu(test::make_cuda(), DType::kF32);
  const auto weight = gpu->pack({q.data(), DType::kU8, n, k, k, &ordered}, Scheme::kInt4);
  for (const int64_t rows : {3, 20}) {
    const std::vector<float> x = test::normal(random, rows * k);
    std::vector<float> want;
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t r = 0; r < n; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c)
          sum += static_cast<double>(x[static_cast<size_t>(t * k + order[static_cast<size_t>(c)])]) *
                 (static_cast<double>(q[static_cast<size_t>(r * k + c)]) - 7) / 4;
        want.push_back(static_cast<float>(sum));
      }
    const Tensor out = gpu.empty(rows, n);
    gpu->linear(out, gpu.matrix(x, rows, k), *weight, {});
    test::check_near(gpu.read(out), want, DType::kF32, 200, 10.0);
  }
}

TEST_CASE("a matrix of few bits that is widened in parts multiplies as a whole one") {
  std::mt19937 random(19);
  const int64_t rows = 20, n = 150, k = 100;
  for (const Scheme scheme : {Scheme::kInt8, Scheme::kInt4}) {
    Side gpu(test::make_cuda(), DType::kBF16);
    const auto values = test::normal(random, n * k, DType::kF32),
               residual = test::normal(random, rows * n, gpu.dtype());
    const auto weight = gpu->pack({values.data(), DType::kF32, n, k, k, nullptr}, scheme);
    const Tensor x = gpu.matrix(test::normal(random, rows * k, gpu.dtype()), rows, k);
    const Tensor bias = gpu.put(test::normal(random, n), 1, n, 0, DType::kF32);
    Epilogue epilogue;
    epilogue.bias = Tensor(bias.data, DType::kF32, {n});
    const auto product = [&](size_t most_widened) {
      const cudaStream_t stream = static_cast<cuda::CudaBackend&>(*gpu).stream();
      const Tensor out = gpu.matrix(residual, rows, n, 10);
      epilogue.residual = out;
      cuda::Products products(stream, false, most_widened);
      products.run(out, x, static_cast<const cuda::CudaWeight&>(*weight), epilogue);
      return gpu.read(out);
    };
    test::check_near(product(0), product(cuda::Products::kMostWidened), gpu.dtype(), 4, 10.0);
  }
}

TEST_CASE("a step is run once, recorded once, and replayed from then on") {
  Side gpu(test::make_cuda(), DType::kF32);
  const Tensor x = gpu.matrix({1, 2, 3, 4}, 1, 4), one = gpu.matrix({1, 1, 1, 1}, 1, 4);
  int bodies = 0;
  for (int i = 0; i < 5; ++i) {
    const float next[4] = {static_cast<float>(i), 0, 0, 0};
    gpu->copy_in(x, next);
    gpu->run_step(4, [&] {
      ++bodies;
      gpu->add(x, one);
    });
    CHECK(gpu.read(x) == std::vector<float>{static_cast<float>(i) + 1, 1, 1, 1});
  }
  CHECK(bodies == 2);
  gpu->run_step(0, [&] { ++bodies; });
  gpu->run_step(0, [&] { ++bodies; });
  gpu->run_step(8, [&] { ++bodies; });
  CHECK(bodies == 5);
}

TEST_CASE("buckets cover every number of sequences, a little larger") {
  const auto gpu = test::make_cuda();
  int64_t last = 0;
  for (int64_t n = 1; n <= 600; ++n) {
    const int64_t bucket = gpu->decode_bucket(n);
    CHECK(bucket >= n);
    CHECK(bucket >= last);
    CHECK(bucket < n + std::max<int64_t>(2, std::min<int64_t>(32, n + 4)));
    CHECK(gpu->decode_bucket(bucket) == bucket);
    last = bucket;
  }
}

TEST_CASE("sampling draws the CPU's tokens for every kind of parameter, and skips padding") {
  std::mt19937 random(8);
  const int64_t vocab = 301, slots = 8, rows = 7;
  std::vector<SamplingParams> params(slots);
  for (size_t s = 0; s < params.size(); ++s) {
    params[s].greedy = s == 0;
    params[s].seed = 100 + s;
    params[s].temperature = 0.8f;
    params[s].n_logprobs = s % 3 == 0 ? 4 : -1;
  }
  params[2].top_k = 7;
  params[3].top_p = 0.7f;
  params[4].repetition_penalty = 1.3f;
  params[4].frequency_penalty = 0.4f;
  params[5].logit_bias = {{17, 30.0f}, {400, 1.0f}};
  params[6].eos_from = 1000;
  params[6].eos_ids = {3, 4};
  params[6].typical_p = 0.8f;
  params[7].min_p = 0.05f;
  params[7].presence_penalty = 1.0f;
  const std::vector<int32_t> history{5, 9, 9, 200};
  // (row, slot, position, target): two draws share row 1, one row is scored, one entry is padding.
  const std::vector<int32_t> entries{0, 0,  4, -1, 1, 2,  4, -1, 1, 3,  4,  -1, 2, 4,  4, -1, 3, 5,
                                     4, -1, 4, 6,  4, -1, 5, 7,  4, -1, -1, 0,  0, -1, 6, 1,  4, 33};
  const auto n = static_cast<int64_t>(entries.size()) / 4;
  std::vector<std::vector<float>> logits;
  for (int step = 0; step < 3; ++step) logits.push_back(test::normal(random, rows * vocab, DType::kF32, 3.0f));
  const auto run = [&](Side& side) {
    const auto sampler = side->make_sampler(slots, vocab);
    for (int64_t s = 0; s < slots; ++s)
      side->set_slot(*sampler, s, params[static_cast<size_t>(s)], history.data(), static_cast<int64_t>(history.size()),
                     2);
    std::vector<SampledToken> all;
    const Tensor drawn_bytes = side.put(std::vector<float>(static_cast<size_t>(n) * sizeof(SampledToken) / 4, 7.0f), n,
                                        static_cast<int64_t>(sizeof(SampledToken) / 4), 0, DType::kF32);
    const Tensor drawn(drawn_bytes.data, DType::kU8, {n, static_cast<int64_t>(sizeof(SampledToken))});
    for (const auto& row : logits) {
      side->sample(*sampler, drawn, side.matrix(row, rows, vocab), side.ints(entries).reshaped({n, 4}));
      std::vector<SampledToken> tokens(static_cast<size_t>(n));
      side->copy_out(tokens.data(), drawn);
      all.insert(all.end(), tokens.begin(), tokens.end());
    }
    const Tensor tokens = side.ints({-1, 50, -1}), of = side.ints({2, 3, 7});
    side->resolve_tokens(*sampler, tokens, of);
    std::vector<int32_t> resolved(3);
    side->copy_out(resolved.data(), tokens);
    for (const int32_t t : resolved) {
      all.emplace_back();
      all.back().token = t;
    }
    return all;
  };
  Side gpu(test::make_cuda(), DType::kF32), cpu = test::cpu_side();
  const auto got = run(gpu), want = run(cpu);
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].token == want[i].token);
    CHECK(std::abs(got[i].logprob - want[i].logprob) <= 1e-5f);
    CHECK(got[i].n_top == want[i].n_top);
    if (got[i].n_top > kMaxTopLogprobs) continue;  // the padding entry, which keeps what was there
    for (int32_t t = 0; t < got[i].n_top; ++t) CHECK(got[i].top_ids[t] == want[i].top_ids[t]);
  }
}

TEST_CASE("the backend names its device, and refuses a share of memory that is none") {
  const auto gpu = test::make_cuda();
  CHECK(gpu->name() == "cuda");
  CHECK(gpu->describe().starts_with("cuda, "));
  CHECK(gpu->asynchronous());
  CHECK(gpu->probe_read_gbps(size_t{1} << 20) > 0);
  CudaOptions options;
  options.utilization = 1.5;
  CHECK_THROWS_AS(sluice_cuda_module(kCudaModuleVersion)->make(options), Error);
  CHECK(sluice_cuda_module(kCudaModuleVersion + 1) == nullptr);
}

TEST_CASE("threads of several ranks name their devices at the same time") {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 20000; ++i) cuda::set_device_name(std::string(static_cast<size_t>(20 + i % 40 + t), 'g'));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("memory that another holds is not counted as free") {
  const auto gpu = test::make_cuda(), other = test::make_cuda();
  const size_t before = gpu->free_bytes(), held = size_t{64} << 20;
  const Buffer memory = other->allocate(held);
  CHECK(gpu->free_bytes() + held <= before);
}

TEST_CASE("matrices that would leave pages half empty share them, each at a place of its own") {
  const auto gpu = test::make_cuda();
  constexpr size_t kExpert = 768 * 2048 * 2;  // 1.5 pages of 2 MiB
  constexpr int kMany = 40;
  const size_t before = gpu->free_bytes();
  {
    std::vector<Buffer> all;
    const auto take = [&](char value) {
      all.push_back(gpu->allocate(kExpert));
      const std::vector<char> bytes(kExpert, value);
      gpu->copy_in(all.back().view(DType::kU8, {static_cast<int64_t>(kExpert)}), bytes.data());
    };
    const auto holds = [&](const Buffer& buffer, char value) {
      std::vector<char> bytes(kExpert);
      gpu->copy_out(bytes.data(), buffer.view(DType::kU8, {static_cast<int64_t>(kExpert)}));
      return bytes == std::vector<char>(kExpert, value);
    };
    for (int i = 0; i < kMany; ++i) take(static_cast<char>(i));
    CHECK(before - gpu->free_bytes() <= (size_t{128} << 20));  // 120 MiB; 160 in pages of their own
    for (int i = 0; i < kMany; ++i) CHECK(holds(all[static_cast<size_t>(i)], static_cast<char>(i)));

    // What some leave is given again, zeroed, and two neighbours make room for one of twice the size.
    for (const int gone : {3, 11, 12, 25}) all[static_cast<size_t>(gone)] = {};
    const size_t with_gaps = gpu->free_bytes();
    const Buffer twice = gpu->allocate(2 * kExpert - (size_t{1} << 20));
    take(100);
    take(101);
    CHECK(gpu->free_bytes() == with_gaps);
    CHECK(holds(all[10], 10));
    CHECK(holds(all[13], 13));
    CHECK(holds(all[kMany + 1], 101));
    const Buffer fresh = gpu->allocate(kExpert);
    CHECK(holds(fresh, 0));
  }
  CHECK(gpu->free_bytes() + (size_t{4} << 20) >= before);
}

}  // namespace
}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <algorithm>

#include "backend/cuda.h"
#include "cuda/attention_step.h"

namespace sluice {
namespace {
using namespace test;

// Weights and result are rounded to the type once each; values are of the order of 1.
void check_close(const std::vector<float>& got, const std::vector<float>& want, Type type) {
  CHECK(worst(got, want, half_ulp(type) + 4e-6f, half_ulp(type) + 1e-5f) < 1);
}

TEST_CASE("attention of mixed steps equals the CPU backend's for every head size, type and layout") {
  const std::vector<Part> parts{{70, 70}, {33, 1}, {0, 0}, {130, 9}, {1, 1}};
  for (const Heads& heads :
       {Heads{4, 2, 64, 16, 0, false}, Heads{2, 1, 80, 16, 0, false}, Heads{3, 3, 96, 32, 0, true},
        Heads{8, 1, 128, 16, 0, false}, Heads{2, 2, 256, 16, 0, false}, Heads{5, 1, 24, 8, 0, true},
        Heads{4, 4, 16, 4, 20, false}, Heads{4, 2, 128, 16, 37, false}, Heads{20, 1, 64, 16, 0, true},
        Heads{4, 2, 256, 16, 40, false, 1.5f}, Heads{2, 1, 24, 16, 0, true, 2.0f}, Heads{71, 1, 64, 16, 5, false}}) {
    for (const Type type : kTypes) {
      if (type == Type::kF16 && heads.dim > 64 && heads.dim != 128) continue;  // as bf16 but for the product
      CAPTURE(name_of(type));
      CAPTURE(heads.dim);
      Step step(heads, type, parts, 2);
      check_close(step.run(), step.expect(), type);
    }
  }
}

TEST_CASE("attention of encoders, biases by distance and ALiBi in two roundings equal the CPU backend's") {
  Heads encoder{4, 4, 64, 16, 0, false}, across{4, 2, 64, 16, 0, false}, decoder{3, 3, 64, 16, 0, false},
      falcon{4, 4, 64, 16, 0, true}, small{2, 2, 16, 16, 0, false};
  encoder.all_keys = small.all_keys = across.all_keys = true;
  encoder.reach = small.reach = 40;
  decoder.reach = 200;
  falcon.rounded = true;
  for (const Heads& heads : {encoder, across, decoder, falcon, small}) {
    // Whole prompts for an encoder; rows beyond their keys, as of a decoder that looks at a short one.
    const bool cross = heads.all_keys && heads.reach == 0;
    const std::vector<Part> parts = cross            ? std::vector<Part>{{40, 70}, {33, 1}, {1, 9}, {90, 2}}
                                    : heads.all_keys ? std::vector<Part>{{70, 70}, {1, 1}, {0, 0}, {100, 100}}
                                                     : std::vector<Part>{{70, 70}, {33, 1}, {130, 9}, {1, 1}};
    for (const Type type : {Type::kF32, Type::kBF16}) {
      CAPTURE(name_of(type));
      CAPTURE(heads.dim);
      CAPTURE(heads.reach);
      CAPTURE(heads.rounded);
      Step step(heads, type, parts, 2);
      check_close(step.run(), step.expect(), type);
      if (heads.all_keys && !cross) continue;
      Step decode(heads, type, {{300, 1}, {64, 1}, {0, 0}, {1, 1}});
      decode.grid = 3;
      decode.decode_only = true;
      check_close(decode.run(), decode.expect(), type);
    }
  }
}

Heads with_sinks(Heads heads, float first) {
  heads.sink = first;
  return heads;
}

// The products of kernels/warpgroup.h, which the device has or has not where it is a real one.
struct Warpgroups {
  Warpgroups() { emulation::set_warpgroup_products(true); }
  ~Warpgroups() { emulation::set_warpgroup_products(false); }
};

TEST_CASE("prefill by products of warpgroups equals the CPU backend's") {
  const Warpgroups warpgroups;
  Heads encoder{4, 4, 64, 16, 0, false};
  encoder.all_keys = true;
  encoder.reach = 40;
  for (const Heads& heads : {Heads{4, 2, 64, 16, 0, false}, Heads{2, 1, 80, 16, 0, false}, Heads{3, 3, 96, 32, 0, true},
                             Heads{8, 1, 128, 16, 37, false}, Heads{2, 2, 256, 16, 40, false, 1.5f}, encoder}) {
    CAPTURE(heads.dim);
    const Type type = heads.dim == 96 ? Type::kF16 : Type::kBF16;
    Step step(heads, type, heads.all_keys ? std::vector<Part>{{70, 70}, {0, 0}} : std::vector<Part>{{70, 70}, {130, 9}},
              2);
    check_close(step.run(), step.expect(), type);
  }
}

TEST_CASE("deterministic attention by warpgroups gives a row the same bits in blocks of any size") {
  const Warpgroups warpgroups;
  const Heads heads = with_sinks({16, 2, 64, 16, 50, false}, 4);  // the whole fills blocks of three warpgroups
  const int64_t width = heads.n_heads * heads.dim, length = 100;
  Step whole(heads, Type::kBF16, {{length, length}});
  whole.deterministic = true;
  const std::vector<float> want = whole.run();
  check_close(want, whole.expect(), Type::kBF16);
  for (const int64_t rows : {1, 40}) {
    CAPTURE(rows);
    Step step(heads, Type::kBF16, {{length, rows}, {5, 1}}, 1);
    step.deterministic = true;
    const std::vector<float> got = step.run();
    CHECK(std::equal(got.begin(), got.begin() + rows * width, want.end() - rows * width));
  }
  const auto run = [&](bool together) {
    Step step(heads, Type::kBF16, {{70, 1}, {64, 1}, {1, 1}}, 1);
    step.deterministic = step.decode_only = true;
    return step.run_fresh(20, together);
  };
  CHECK(run(true) == run(false));
}

TEST_CASE("sinks take their share of rows that are prefilled and decoded, for every head size and type") {
  Heads encoder{4, 4, 64, 16, 0, false};
  encoder.all_keys = true;
  encoder.reach = 40;
  for (const Heads& heads : {with_sinks({16, 2, 64, 16, 0, false}, 3), with_sinks({2, 1, 80, 16, 9, false}, 2),
                             with_sinks({3, 3, 96, 32, 0, true}, 3), with_sinks({40, 1, 128, 16, 50, false}, 4),
                             with_sinks({2, 2, 256, 16, 0, false, 1.5f}, 4), with_sinks({5, 1, 24, 8, 0, true}, 2),
                             with_sinks({4, 4, 16, 4, 20, false}, 1), with_sinks(encoder, 3)}) {
    for (const Type type : kTypes) {
      if (type == Type::kF16 && heads.dim > 64) continue;  // as bf16 but for the product
      for (const bool wide : {false, true}) {
        if (wide && (type != Type::kBF16 || heads.dim < 64)) continue;
        CAPTURE(name_of(type));
        CAPTURE(heads.dim);
        CAPTURE(wide);
        const std::optional<Warpgroups> warpgroups = wide ? std::make_optional<Warpgroups>() : std::nullopt;
        Step step(heads, type,
                  heads.all_keys ? std::vector<Part>{{70, 70}, {0, 0}}
                                 : std::vector<Part>{{40, 40}, {33, 1}, {0, 0}, {130, 9}, {1, 1}},
                  2);
        check_close(step.run(), step.expect(), type);
      }
    }
  }
}

TEST_CASE("a sink far below all scores changes no bit, and one far above leaves zeros") {
  for (const Heads& heads : {Heads{4, 2, 64, 16, 0, false}, Heads{4, 2, 24, 16, 0, false}}) {
    for (const bool deterministic : {false, true}) {
      for (const Type type : {Type::kF16, Type::kF32}) {
        const auto run = [&](const Heads& of) {
          Step step(of, type, {{70, 70}, {130, 1}, {33, 1}}, 2);
          step.deterministic = deterministic;
          return step.run();
        };
        CAPTURE(heads.dim);
        CAPTURE(deterministic);
        CHECK(run(with_sinks(heads, -1e4f)) == run(heads));
        const std::vector<float> above = run(with_sinks(heads, 1e4f));
        CHECK(std::all_of(above.begin(), above.end(), [](float x) { return x == 0; }));
      }
    }
  }
}

TEST_CASE("decoding deals the keys to any number of blocks") {
  for (const Heads& heads :
       {Heads{4, 2, 64, 16, 0, false}, Heads{40, 2, 64, 16, 0, false}, Heads{3, 1, 256, 16, 0, true},
        Heads{8, 2, 128, 32, 100, false}, Heads{71, 1, 64, 16, 0, false}, Heads{7, 1, 128, 16, 5, false},
        Heads{32, 1, 96, 32, 0, false}, with_sinks({40, 2, 64, 16, 0, false}, 4),
        with_sinks({8, 2, 128, 16, 128, false}, 6), with_sinks({3, 1, 256, 16, 0, true}, 9)}) {
    for (const int grid : {1, 2, 3, 7, 40}) {
      CAPTURE(heads.dim);
      CAPTURE(grid);
      Step step(heads, Type::kBF16, {{300, 1}, {64, 1}, {1, 1}, {0, 0}, {65, 1}}, 3);
      step.grid = grid;
      step.decode_only = true;
      const std::vector<float> want = step.expect();
      in_several_orders([&] { check_close(step.run(), want, Type::kBF16); });
    }
  }
}

TEST_CASE("decoding takes more sequences than a block has threads, and long ones beside short ones") {
  std::vector<Part> many(150, {3, 1});
  many[17] = {0, 0};
  many[140] = {200, 1};
  for (const std::vector<Part>& parts : {many, std::vector<Part>{{1, 1}, {1500, 1}, {2, 1}}}) {
    Step step({4, 4, 64, 16, 0, false}, Type::kBF16, parts, 2);
    step.grid = 20;
    step.decode_only = true;
    check_close(step.run(), step.expect(), Type::kBF16);
  }
}

TEST_CASE("every device has room for the sequences that a step may have") {
  std::vector<Part> most(static_cast<size_t>(kCudaMostSeqs), {0, 0});
  most.back() = {20, 1};
  for (const int64_t dim : {64, 80, 96, 128, 256}) {
    CAPTURE(dim);
    Step step({1, 1, dim, 16, 0, false}, Type::kBF16, most);
    step.grid = 1;
    step.decode_only = true;
    check_close(step.run(), step.expect(), Type::kBF16);
  }
}

TEST_CASE("deterministic attention gives a row the same bits decoded, prefilled, in any company") {
  for (const Heads& heads : {Heads{4, 2, 64, 16, 0, false}, with_sinks({6, 2, 128, 16, 50, false}, 4),
                             with_sinks({4, 2, 40, 16, 0, true}, 2)}) {
    for (const Type type : {Type::kBF16, Type::kF32}) {
      if (type == Type::kF32 && heads.dim != 40) continue;
      const int64_t width = heads.n_heads * heads.dim, length = 140;
      Step whole(heads, type, {{length, length}});
      whole.deterministic = true;
      const std::vector<float> want = whole.run();
      check_close(want, whole.expect(), type);
      for (const int64_t rows : {1, 2, 40}) {
        for (const bool company : {false, true}) {
          CAPTURE(rows);
          std::vector<Part> parts{{length, rows}};
          if (company) parts = {{length, rows}, {90, 30}, {5, 1}};
          Step step(heads, type, parts, company ? 1 : 0);
          step.deterministic = true;
          step.decode_only = !company && rows == 1;
          const std::vector<float> got = step.run();
          CHECK(std::equal(got.begin(), got.begin() + rows * width, want.end() - rows * width));
        }
      }
    }
  }
}

TEST_CASE("a step's own keys are rotated, cached and attended to in one kernel with the same bits") {
  for (const Heads& heads :
       {Heads{4, 2, 64, 16, 0, false}, Heads{71, 1, 64, 16, 0, false}, Heads{2, 1, 80, 16, 0, false},
        Heads{3, 3, 96, 32, 0, true}, with_sinks({8, 2, 128, 32, 100, false}, 6), Heads{3, 1, 256, 16, 0, false}}) {
    for (const int64_t rotary : {int64_t{0}, int64_t{20}, heads.dim}) {
      for (const int grid : {1, 3, 0}) {  // 0: deterministic
        CAPTURE(heads.dim);
        CAPTURE(rotary);
        CAPTURE(grid);
        const auto run = [&](bool together) {
          Step step(heads, heads.dim == 96 ? Type::kF16 : Type::kBF16,
                    {{300, 1}, {64, 1}, {1, 1}, {0, 0}, {65, 1}, {33, 1}}, 3);
          step.grid = std::max(grid, 1);
          step.deterministic = grid == 0;
          step.decode_only = true;
          return step.run_fresh(rotary, together);
        };
        CHECK(run(true) == run(false));
      }
    }
  }
}

}  // namespace
}  // namespace sluice

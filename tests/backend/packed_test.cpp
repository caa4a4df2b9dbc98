// SPDX-License-Identifier: Apache-2.0
// Packed weights as files keep them.
#include <cstring>

#include "backend/arrays.h"
#include "backend/cpu/panel_weight.h"
#include "base/error.h"

namespace sluice {
namespace {
using test::Matrix;

constexpr Scheme kSchemes[] = {Scheme::kF32, Scheme::kBF16, Scheme::kF16, Scheme::kInt8, Scheme::kInt4};

std::unique_ptr<Weight> pack(Backend& backend, Matrix& w, Scheme scheme) {
  const Tensor t = w.tensor();
  return backend.pack({t.data, DType::kF32, w.rows(), w.cols(), t.row_stride}, scheme);
}

// What reading the parts from a file gives.
PackedForm copied(Backend& backend, const Weight& weight) {
  PackedForm out = backend.form(weight);
  for (PackedPart& part : out.parts) {
    if (part.shape.empty()) continue;
    part.memory = backend.allocate(part.bytes());
    std::memcpy(part.memory.data(), part.data, part.bytes());
    part.data = nullptr;
  }
  return out;
}

// A matrix of small whole numbers: the same on every machine.
Matrix numbers(int64_t rows, int64_t cols) {
  Matrix out(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out.at(r, c) = static_cast<float>((r * 31 + c * 17) % 61 - 30) * 0.125f;
  }
  return out;
}

uint64_t digest(const PackedForm& form) {  // FNV-1a
  uint64_t hash = 14695981039346656037ull;
  for (const PackedPart& part : form.parts) {
    for (size_t i = 0; i < part.bytes(); ++i)
      hash = (hash ^ static_cast<const unsigned char*>(part.data)[i]) * 1099511628211ull;
  }
  return hash;
}
}  // namespace

TEST_CASE("A weight restored from its parts gives the products of the one that was packed") {
  const auto backend = test::make_backend();
  std::mt19937 random(4);
  Matrix w(70, 300), x(9, 300), left(9, 70), right(9, 70);
  w.fill(random);
  x.fill(random);
  for (const Scheme scheme : kSchemes) {
    CAPTURE(static_cast<int>(scheme));
    const auto packed = pack(*backend, w, scheme);
    const auto restored = backend->restore(copied(*backend, *packed));
    CHECK(restored->rows() == 70);
    CHECK(restored->cols() == 300);
    CHECK(restored->bytes() == packed->bytes());
    backend->linear(left.tensor(), x.tensor(), *packed, {});
    backend->linear(right.tensor(), x.tensor(), *restored, {});
    for (int64_t r = 0; r < 9; ++r) CHECK(left.row_equals(r, right, r));
  }
}

TEST_CASE("The bytes of packed weights change only with the name of their packing") {
  const auto backend = test::make_backend();
  REQUIRE(backend->packing() == "cpu-panels-1");
  Matrix w = numbers(45, 100);
  const uint64_t expected[] = {2653232048059035032u, 16200221164217135528u, 5482950150913993091u, 5186302228714730880u,
                               4512514920780768466u};
  for (size_t i = 0; i < std::size(kSchemes); ++i) {
    CAPTURE(i);
    CHECK(digest(backend->form(*pack(*backend, w, kSchemes[i]))) == expected[i]);
  }
}

TEST_CASE("Parts that do not fit together are refused") {
  const auto backend = test::make_backend();
  Matrix w = numbers(45, 100);
  const auto packed = pack(*backend, w, Scheme::kInt8);
  const auto refused = [&](const char* why, const auto& spoil) {
    PackedForm form = copied(*backend, *packed);
    spoil(form);
    CHECK_THROWS_WITH_AS(backend->restore(std::move(form)), doctest::Contains(why), Error);
  };
  refused("its panels are [2, 2", [](PackedForm& f) { f.parts[0].shape[2] = 100; });
  refused("its panels are uint8[2, 2, 2048], expected uint8[3, 2, 2048]", [](PackedForm& f) { f.rows = 70; });
  refused("its panels are", [](PackedForm& f) { f.cols = 200; });
  refused("its panels are", [](PackedForm& f) { f.scheme = Scheme::kBF16; });
  refused("its panels are []", [](PackedForm& f) { f.parts.clear(); });
  refused("its scales are", [](PackedForm& f) { f.parts[1] = {}; });
  refused("its scales are", [](PackedForm& f) { f.parts[1].dtype = DType::kI32; });
  refused("its panels are", [&](PackedForm& f) { f.parts[0].memory = backend->allocate(8); });
  refused("it takes its column 3 from 100", [&](PackedForm& f) {
    f.parts[2].shape = {100};
    f.parts[2].dtype = DType::kI32;
    f.parts[2].memory = backend->allocate(400);
    static_cast<int32_t*>(f.parts[2].memory.data())[3] = 100;
  });
}

}  // namespace sluice

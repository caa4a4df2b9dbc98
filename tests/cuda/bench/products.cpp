// SPDX-License-Identifier: Apache-2.0
#include "gemv.h"
#include "narrow.h"

#include "bench.h"

namespace sluice::bench {

namespace {

struct Product {
  const char* name;
  int64_t n, k;
  bool gated, norm, residual;
};
std::vector<Product> products_of(const Shape& s) {
  return {{"qkv", (s.heads + 2 * s.kv_heads) * s.dim, s.width, false, true, false},
          {"output", s.width, s.heads * s.dim, false, false, true},
          {"gate/up", s.mlp, s.width, true, true, false},
          {"down", s.width, s.mlp, false, false, true}};
}

Case product_case(const Product& p, int64_t rows, Type out_type = Type::kBF16) {
  const int64_t matrix = (p.gated ? 2 : 1) * p.n * p.k;
  const double bytes = 2.0 * static_cast<double>(matrix);
  const int copies = copies_for(bytes);
  const Shared weights = memory(static_cast<size_t>(matrix * copies) * 2, kBF16);
  const Shared x = memory(static_cast<size_t>(rows * p.k) * 2, kBF16),
               norm = memory(static_cast<size_t>(p.k) * 4, kF32);
  const Shared out = memory(static_cast<size_t>(rows * p.n) * 4, kZero);
  GemvParams g{};
  g.x = x->at();
  g.out = out->at();
  g.rows = rows;
  g.n = p.n;
  g.k = p.k;
  g.x_stride = g.weight_stride = p.k;
  g.out_stride = g.residual_stride = p.n;
  g.gated = p.gated;
  g.function = p.gated ? Function::kSilu : Function::kNone;
  g.type = Type::kBF16;
  g.out_type = out_type;
  g.norm_eps = 1e-5f;
  if (p.residual) g.residual = out->at();
  if (p.norm && rows <= 8) g.norm_weight = norm->at<float>();
  return {"", bytes, bytes * static_cast<double>(rows), copies, [=](int copy, cudaStream_t s) {
            GemvParams now = g;
            now.weight = weights->at<uint16_t>(static_cast<size_t>(copy * matrix));
            static_cast<void>(x), static_cast<void>(norm), static_cast<void>(out);
            return gemv(now, s);
          }};
}

}  // namespace

void bench_products(Bench& bench) {
  for (const Shape& shape : {kLarge, kSmall}) {
    for (const int64_t rows : {1, 2, 4, 8, 16}) {
      const std::string of = std::string(" ") + shape.name + ", " + std::to_string(rows) + " rows";
      for (const Product& p : products_of(shape))
        bench.measure("gemv " + std::string(p.name) + of, [&] { return product_case(p, rows); });
      bench.measure("gemv layer" + of, [&] {
        auto parts = std::make_shared<std::vector<Case>>();
        double bytes = 0;
        int copies = 32;
        for (const Product& p : products_of(shape)) {
          parts->push_back(product_case(p, rows));
          bytes += parts->back().bytes;
          copies = std::min(copies, parts->back().copies);
        }
        return Case{"", bytes, bytes * static_cast<double>(rows), copies, [parts](int copy, cudaStream_t s) {
                      for (const Case& part : *parts) {
                        if (const cudaError_t error = part.run(copy, s); error != cudaSuccess) return error;
                      }
                      return cudaSuccess;
                    }};
      });
      bench.measure("gemv head" + of, [&] {
        return product_case({"head", kVocab, shape.width, false, false, false}, rows, Type::kF32);
      });
    }
  }
}

void bench_narrow(Bench& bench) {
  const struct {
    const char* name;
    Bits bits;
    double byte;
  } kinds[] = {{"int8", Bits::kEight, 1}, {"int4", Bits::kFour, 0.5}, {"fp8", Bits::kFloat8, 1}};
  for (const auto& kind : kinds) {
    for (const int64_t rows : {1, 8}) {
      bench.measure("narrow_gemv " + std::string(kind.name) + " gate/up 8b, " + std::to_string(rows) + " rows", [&] {
        const int64_t n = 2 * kLarge.mlp, k = kLarge.width, group = 128;
        const auto stride = static_cast<int64_t>(static_cast<double>(k) * kind.byte);
        const double bytes = static_cast<double>(n * stride);
        const int copies = copies_for(bytes);
        const Shared numbers = memory(static_cast<size_t>(n * stride * copies), kBytes);
        const Shared scales = memory(static_cast<size_t>(n * (k / group)) * 4, kF32),
                     groups = memory(static_cast<size_t>(n * (k / group)) * 4, kBF16);
        const Shared x = memory(static_cast<size_t>(rows * k) * 2, kBF16),
                     out = memory(static_cast<size_t>(rows * n) * 2, kZero);
        NarrowParams p{};
        p.w = {nullptr, scales->at<float>(), groups->at(), nullptr, n, k, stride, group, kind.bits};
        p.out = out->at();
        p.x = x->at();
        p.rows = rows;
        p.out_stride = n;
        p.x_stride = k;
        p.type = p.out_type = Type::kBF16;
        return Case{"", bytes, 2.0 * static_cast<double>(n * k * rows), copies, [=](int copy, cudaStream_t s) {
                      NarrowParams now = p;
                      now.w.numbers = numbers->at<char>(static_cast<size_t>(copy * n * stride));
                      static_cast<void>(scales), static_cast<void>(groups), static_cast<void>(x),
                          static_cast<void>(out);
                      return narrow_gemv(now, s);
                    }};
      });
    }
  }
}

}  // namespace sluice::bench

// SPDX-License-Identifier: Apache-2.0
// The operations as plain f32 loops, so that a model can be checked apart from any kernel: where goldens pass here and
// fail on a real backend, the kernel is at fault.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weights/host_backend.h"

namespace sluice::test {

class PlainBackend : public StoringBackend {
 public:
  void embed(const Tensor& out, const Tensor& table, const Tensor& ids, int64_t first_id) override {
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const int64_t id = ids.as<int32_t>()[t] - first_id;
      float* row = static_cast<float*>(out.row(t));
      std::fill_n(row, out.dim(1), 0.0f);
      if (id >= 0 && id < table.dim(0)) convert_elements(row, DType::kF32, table.row(id), table.dtype, out.dim(1));
    }
  }
  void rms_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, float eps) override {
    if (residual) add(residual, x);
    const Tensor& in = residual ? residual : x;
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const float* from = static_cast<const float*>(in.row(t));
      double sum = 0.0;
      for (int64_t i = 0; i < in.dim(1); ++i) sum += static_cast<double>(from[i]) * from[i];
      const float scale = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(in.dim(1)) + eps));
      for (int64_t i = 0; i < in.dim(1); ++i)
        static_cast<float*>(out.row(t))[i] = from[i] * scale * weight.as<float>()[i];
    }
  }
  void layer_norm(const Tensor& out, const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                  float eps) override {
    if (residual) add(residual, x);
    const Tensor& in = residual ? residual : x;
    const double n = static_cast<double>(in.dim(1));
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const float* from = static_cast<const float*>(in.row(t));
      double sum = 0.0, squares = 0.0;
      for (int64_t i = 0; i < in.dim(1); ++i) sum += from[i];
      for (int64_t i = 0; i < in.dim(1); ++i) squares += (from[i] - sum / n) * (from[i] - sum / n);
      const double scale = 1.0 / std::sqrt(squares / n + eps);
      for (int64_t i = 0; i < in.dim(1); ++i)
        static_cast<float*>(out.row(t))[i] = static_cast<float>((from[i] - sum / n) * scale) * weight.as<float>()[i] +
                                             (bias ? bias.as<float>()[i] : 0.0f);
    }
  }
  void linear(const Tensor& out, const Tensor& x, const Weight& weight, const Epilogue& epilogue) override {
    check(out.dim(1) == weight.rows() && x.dim(1) == weight.cols(), "shapes of a product fit");
    const std::vector<float>& w = static_cast<const PlainWeight&>(weight).values;
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const float* from = static_cast<const float*>(x.row(t));
      for (int64_t o = 0; o < weight.rows(); ++o) {
        float sum = 0.0f;
        for (int64_t i = 0; i < weight.cols(); ++i) sum += from[i] * w[static_cast<size_t>(o * weight.cols() + i)];
        if (epilogue.bias) sum += epilogue.bias.as<float>()[o];
        if (epilogue.residual) sum += static_cast<const float*>(epilogue.residual.row(t))[o];
        static_cast<float*>(out.row(t))[o] = sum;
      }
    }
  }
  void rope_and_cache(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const BatchView& batch,
                      int group, const AttentionShape& shape, const CacheLayer& cache) override {
    const int64_t hd = shape.head_dim;
    for (int64_t t = 0; t < batch.rows; ++t) {
      if (table) rotate(static_cast<float*>(q.row(t)), table, batch.positions.as<int32_t>()[t], shape.n_heads, hd);
      if (table) rotate(static_cast<float*>(k.row(t)), table, batch.positions.as<int32_t>()[t], shape.n_kv_heads, hd);
      const int64_t slot = batch.cache[group].slots.as<int32_t>()[t];
      if (slot < 0) continue;
      for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
        std::copy_n(static_cast<const float*>(k.row(t)) + h * hd, hd, cell(cache.k, slot, h));
        std::copy_n(static_cast<const float*>(v.row(t)) + h * hd, hd, cell(cache.v, slot, h));
      }
    }
  }
  void attention(const Tensor& out, const Tensor& q, const BatchView& batch, int group, const AttentionShape& shape,
                 const CacheLayer& cache) override {
    const int64_t hd = shape.head_dim, block_size = cache.k.dim(2);
    const Tensor& context = batch.cache[group].context ? batch.cache[group].context : batch.context;
    for (int64_t s = 0; s < batch.seqs; ++s) {
      const int32_t* blocks = static_cast<const int32_t*>(batch.cache[group].block_table.row(s));
      const auto slot = [&](int64_t key) { return blocks[key / block_size] * block_size + key % block_size; };
      for (int64_t t = batch.first_row.as<int32_t>()[s]; t < batch.first_row.as<int32_t>()[s + 1]; ++t) {
        const int64_t position = batch.positions.as<int32_t>()[t];
        const int64_t last = shape.causal ? position : context.as<int32_t>()[s] - 1;
        const int64_t first = shape.window > 0 ? std::max<int64_t>(0, last - shape.window + 1) : 0;
        for (int64_t h = 0; h < shape.n_heads; ++h) {
          const int64_t kv = h / (shape.n_heads / shape.n_kv_heads);
          const float* query = static_cast<const float*>(q.row(t)) + h * hd;
          std::vector<float> scores;
          for (int64_t key = first; key <= last; ++key) {
            const float* k = cell(cache.k, slot(key), kv);
            float dot = 0.0f;
            for (int64_t i = 0; i < hd; ++i) dot += query[i] * k[i];
            dot *= shape.scale;
            if (shape.soft_cap > 0) dot = shape.soft_cap * std::tanh(dot / shape.soft_cap);
            scores.push_back(dot + bias(shape, h, key, position));
          }
          const float sink = shape.sinks ? shape.sinks.as<float>()[h] : -std::numeric_limits<float>::infinity();
          const float top = std::max(sink, *std::max_element(scores.begin(), scores.end()));
          float sum = std::exp(sink - top);
          for (float& score : scores) sum += score = std::exp(score - top);
          float* to = static_cast<float*>(out.row(t)) + h * hd;
          std::fill_n(to, hd, 0.0f);
          for (int64_t key = first; key <= last; ++key) {
            const float* v = cell(cache.v, slot(key), kv);
            for (int64_t i = 0; i < hd; ++i) to[i] += scores[static_cast<size_t>(key - first)] / sum * v[i];
          }
        }
      }
    }
  }
  void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override {
    const int64_t n = out.dim(1);
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const float* in = static_cast<const float*>(gate_up.row(t));
      for (int64_t i = 0; i < n; ++i) static_cast<float*>(out.row(t))[i] = curve(in[i], activation) * in[n + i];
    }
  }
  void activation(const Tensor& inout, Activation activation) override {
    for (int64_t t = 0; t < inout.dim(0); ++t) {
      float* x = static_cast<float*>(inout.row(t));
      for (int64_t i = 0; i < inout.dim(1); ++i) x[i] = curve(x[i], activation);
    }
  }
  void add(const Tensor& inout, const Tensor& other) override {
    for (int64_t t = 0; t < inout.dim(0); ++t) {
      for (int64_t i = 0; i < inout.dim(1); ++i)
        static_cast<float*>(inout.row(t))[i] += static_cast<const float*>(other.row(t))[i];
    }
  }
  void gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override {
    for (int64_t t = 0; t < out.dim(0); ++t)
      std::copy_n(static_cast<const float*>(x.row(rows.as<int32_t>()[t])), out.dim(1), static_cast<float*>(out.row(t)));
  }
  void scale(const Tensor& inout, float factor) override {
    for (int64_t t = 0; t < inout.dim(0); ++t) {
      for (int64_t i = 0; i < inout.dim(1); ++i) static_cast<float*>(inout.row(t))[i] *= factor;
    }
  }
  void soft_cap(const Tensor& inout, float cap) override {
    for (int64_t t = 0; t < inout.dim(0); ++t) {
      for (int64_t i = 0; i < inout.dim(1); ++i) {
        float& v = static_cast<float*>(inout.row(t))[i];
        v = cap * std::tanh(v / cap);
      }
    }
  }
  void head_norm(const Tensor& inout, const Tensor& weight, float eps) override {
    const int64_t width = weight.dim(0);
    for (int64_t t = 0; t < inout.dim(0); ++t) {
      for (int64_t h = 0; h < inout.dim(1) / width; ++h) {
        const Tensor head(static_cast<float*>(inout.row(t)) + h * width, DType::kF32, {1, width});
        rms_norm(head, head, {}, weight, eps);
      }
    }
  }
  void rotations(const Tensor& out, const Tensor& positions, const Tensor& lengths,
                 const LengthRotation& rule) override {
    const int64_t half = out.dim(1) / 2;
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const int64_t p = positions.as<int32_t>()[t], n = std::max<int64_t>(lengths.as<int32_t>()[t], p + 1);
      const bool beyond = n > rule.original;
      const double grown =
          static_cast<double>(rule.factor) * static_cast<double>(n) / static_cast<double>(rule.original) -
          (static_cast<double>(rule.factor) - 1);
      for (int64_t i = 0; i < half; ++i) {
        double inverse = static_cast<double>(static_cast<const float*>(rule.frequencies.row(beyond ? 1 : 0))[i]);
        if (beyond && rule.growth > 0)
          inverse = std::pow(static_cast<double>(rule.theta) * std::pow(grown, static_cast<double>(rule.growth)),
                             -static_cast<double>(i) / static_cast<double>(half));
        float* row = static_cast<float*>(out.row(t));
        row[i] = static_cast<float>(std::cos(static_cast<double>(p) * inverse)) * rule.scale;
        row[half + i] = static_cast<float>(std::sin(static_cast<double>(p) * inverse)) * rule.scale;
      }
    }
  }
  void route(const Routing& out, const Tensor& logits, const RouterRule& rule) override {
    const int64_t n = logits.dim(0), experts = logits.dim(1), local = out.offsets.dim(0) - 1;
    std::vector<std::vector<int32_t>> chosen;
    for (int64_t t = 0; t < n; ++t) {
      const float* row = static_cast<const float*>(logits.row(t));
      std::vector<int32_t> order;
      for (int64_t e = 0; e < experts; ++e) order.push_back(static_cast<int32_t>(e));
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      double all = 0;
      for (int64_t e = 0; e < (rule.renormalise ? rule.top_k : experts); ++e)
        all += std::exp(static_cast<double>(row[order[static_cast<size_t>(e)]]));
      order.resize(static_cast<size_t>(rule.top_k));
      std::sort(order.begin(), order.end());
      for (size_t j = 0; j < order.size(); ++j)
        static_cast<float*>(out.weights.row(t))[j] =
            static_cast<float>(std::exp(static_cast<double>(row[order[j]])) / all);
      chosen.push_back(order);
    }
    int32_t place = 0;
    for (int64_t i = 0; i < n * rule.top_k; ++i) out.places.as<int32_t>()[i] = -1, out.rows.as<int32_t>()[i] = 0;
    for (int64_t e = 0; e < local; ++e) {
      out.offsets.as<int32_t>()[e] = place;
      for (int64_t t = 0; t < n; ++t) {
        for (int64_t j = 0; j < rule.top_k; ++j) {
          if (chosen[static_cast<size_t>(t)][static_cast<size_t>(j)] != out.first_expert + e) continue;
          static_cast<int32_t*>(out.places.row(t))[j] = place;
          out.rows.as<int32_t>()[place++] = static_cast<int32_t>(t);
        }
      }
    }
    out.offsets.as<int32_t>()[local] = place;
  }
  void grouped_gemm(const Tensor& out, const Tensor& x, const WeightGroup& experts, const Tensor& offsets,
                    const Tensor& bias) override {
    for (int64_t e = 0; e < experts.size(); ++e) {
      const int64_t first = offsets.as<int32_t>()[e], rows = offsets.as<int32_t>()[e + 1] - first;
      const Tensor own = bias ? Tensor(bias.row(e), DType::kF32, {out.dim(1)}) : Tensor{};
      if (rows > 0) linear(out.rows(first, rows), x.rows(first, rows), experts.member(e), {own, {}});
    }
  }
  void clamped_swiglu(const Tensor& out, const Tensor& pairs) override {
    for (int64_t t = 0; t < out.dim(0); ++t) {
      for (int64_t i = 0; i < out.dim(1); ++i) {
        const float* in = static_cast<const float*>(pairs.row(t)) + 2 * i;
        const double gate = std::min(static_cast<double>(in[0]), 7.0),
                     up = std::clamp(static_cast<double>(in[1]), -7.0, 7.0);
        static_cast<float*>(out.row(t))[i] = static_cast<float>((up + 1) * gate / (1 + std::exp(-1.702 * gate)));
      }
    }
  }
  void combine(const Tensor& out, const Tensor& x, const Routing& routing) override {
    for (int64_t t = 0; t < out.dim(0); ++t) {
      float* row = static_cast<float*>(out.row(t));
      std::fill_n(row, out.dim(1), 0.0f);
      for (int64_t j = 0; j < routing.places.dim(1); ++j) {
        const int32_t place = static_cast<const int32_t*>(routing.places.row(t))[j];
        const float weight = static_cast<const float*>(routing.weights.row(t))[j];
        for (int64_t i = 0; place >= 0 && i < out.dim(1); ++i)
          row[i] += weight * static_cast<const float*>(x.row(place))[i];
      }
    }
  }
  void add_gated(const Tensor& out, const Tensor& x, const Tensor& gate) override {
    for (int64_t t = 0; t < out.dim(0); ++t) {
      const float share = 1.0f / (1.0f + std::exp(-*static_cast<const float*>(gate.row(t))));
      for (int64_t i = 0; i < out.dim(1); ++i)
        static_cast<float*>(out.row(t))[i] += share * static_cast<const float*>(x.row(t))[i];
    }
  }
  void copy_blocks(const Tensor& cache, const Tensor& pairs) override {
    const size_t bytes = static_cast<size_t>(cache.row_elements()) * dtype_bytes(cache.dtype);
    for (int64_t i = 0; i < pairs.dim(0); ++i) {
      const int32_t* pair = static_cast<const int32_t*>(pairs.row(i));
      std::memcpy(cache.row(pair[1]), cache.row(pair[0]), bytes);
    }
  }

 private:
  static float curve(double x, Activation activation) {
    switch (activation) {
      case Activation::kSilu:
        return static_cast<float>(x / (1.0 + std::exp(-x)));
      case Activation::kGeluErf:
        return static_cast<float>(0.5 * x * (1.0 + std::erf(x / M_SQRT2)));
      case Activation::kGeluTanh:
        return static_cast<float>(0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x))));
      case Activation::kRelu:
        return static_cast<float>(std::max(x, 0.0));
    }
    fatal("unknown activation");
  }
  // What is added to the scaled score of a key.
  static float bias(const AttentionShape& shape, int64_t head, int64_t key, int64_t position) {
    float out = 0.0f;
    if (shape.alibi_slopes) {
      const float slope = shape.alibi_slopes.as<float>()[head];
      out += shape.alibi_rounded ? bf16_to_f32(f32_to_bf16(slope * static_cast<float>(key))) * shape.scale
                                 : slope * static_cast<float>(key - position);
    }
    if (shape.distance_bias) {
      const int64_t reach = shape.distance_bias.dim(1) / 2;
      out +=
          static_cast<const float*>(shape.distance_bias.row(head))[std::clamp(key - position, -reach, reach) + reach];
    }
    return out;
  }
  // K or V of one slot and head in [blocks, heads, block_size, head_dim].
  static float* cell(const Tensor& cache, int64_t slot, int64_t head) {
    const int64_t block_size = cache.dim(2), hd = cache.dim(3);
    return static_cast<float*>(cache.row(slot / block_size)) + (head * block_size + slot % block_size) * hd;
  }
  static void rotate(float* heads, const Tensor& table, int64_t position, int64_t n, int64_t head_dim) {
    const int64_t half = table.dim(1) / 2;
    const float* cosine = static_cast<const float*>(table.row(position));
    const float* sine = cosine + half;
    for (int64_t h = 0; h < n; ++h) {
      float* x = heads + h * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
      }
    }
  }
};

}  // namespace sluice::test

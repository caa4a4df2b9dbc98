// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <map>
#include <optional>

#include "backend/arrays.h"

namespace sluice {
namespace {
using test::Matrix;

struct Setting {
  int64_t n_heads = 4, n_kv_heads = 2, head_dim = 16, block_size = 8, window = 0;
  DType dtype = DType::kF32;
  bool alibi = false;
  float soft_cap = 0;
  bool rounded = false;         // ALiBi as Falcon rounds it
  int64_t reach = 0;            // biases by distance up to so far; 0: none
  bool both_ways = false;       // every row sees all keys
  std::optional<float> sink{};  // of the first head; each further one has 1 more
};

// A sequence's queries, keys and values at every position, before rotation (no table is used).
struct Sequence {
  Matrix q, k, v;
  Sequence(const Setting& s, int64_t length, std::mt19937& random)
      : q(length, s.n_heads * s.head_dim), k(length, s.n_kv_heads * s.head_dim), v(length, s.n_kv_heads * s.head_dim) {
    q.fill(random, 1.0f, s.dtype);
    k.fill(random, 1.0f, s.dtype);
    v.fill(random, 1.0f, s.dtype);
  }
};

// A backend with a paged cache; blocks are dealt in a scattered order, and hold noise before they are written.
class Paged {
 public:
  Paged(const Setting& setting, int64_t blocks, int64_t max_seqs, int threads = 2)
      : setting_(setting), backend_(test::make_backend(threads)), max_blocks_(blocks) {
    const size_t element = dtype_bytes(setting.dtype);
    const size_t n = static_cast<size_t>(blocks * setting.n_kv_heads * setting.block_size * setting.head_dim);
    k_.assign(n * element, 0x7f);  // NaN in every type
    v_.assign(n * element, 0x7f);
    tables_.assign(static_cast<size_t>(max_seqs * blocks), 0);
    for (int32_t b = 0; b < blocks; ++b) free_.push_back(b);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(17));
    shape_.n_heads = setting.n_heads;
    shape_.n_kv_heads = setting.n_kv_heads;
    shape_.head_dim = setting.head_dim;
    shape_.scale = 0.3f;
    shape_.window = setting.window;
    shape_.soft_cap = setting.soft_cap;
    for (int64_t h = 0; h < setting.n_heads; ++h) slopes_.push_back(std::pow(0.5f, static_cast<float>(h + 1)));
    if (setting.alibi) shape_.alibi_slopes = test::floats(slopes_);
    shape_.alibi_rounded = setting.rounded;
    shape_.causal = !setting.both_ways;
    for (int64_t h = 0; h < setting.n_heads; ++h) sinks_.push_back(setting.sink.value_or(0) + static_cast<float>(h));
    if (setting.sink) shape_.sinks = test::floats(sinks_);
    const int64_t distances = 2 * setting.reach + 1;
    for (int64_t i = 0; setting.reach > 0 && i < setting.n_heads * distances; ++i)
      biases_.push_back(std::sin(static_cast<float>(i)));
    if (setting.reach > 0) shape_.distance_bias = Tensor(biases_.data(), DType::kF32, {setting.n_heads, distances});
  }

  struct Part {
    int64_t id;  // names the sequence's blocks
    Sequence* sequence;
    int64_t begin, rows;  // positions of this step
  };

  // One step; returns the outputs of its rows in order of the parts, padding rows at the end.
  Matrix step(const std::vector<Part>& parts, int64_t padding = 0) {
    std::vector<int32_t> slots, positions, first_row{0}, context;
    int64_t rows = 0;
    for (const Part& part : parts) {
      std::vector<int32_t>& blocks = blocks_[part.id];
      while (static_cast<int64_t>(blocks.size()) * setting_.block_size < part.begin + part.rows) {
        blocks.push_back(free_.back());
        free_.pop_back();
      }
      int32_t* table = &tables_[static_cast<size_t>(static_cast<int64_t>(context.size()) * max_blocks_)];
      std::copy(blocks.begin(), blocks.end(), table);
      for (int64_t p = part.begin; p < part.begin + part.rows; ++p) {
        slots.push_back(static_cast<int32_t>(
            blocks[static_cast<size_t>(p / setting_.block_size)] * setting_.block_size + p % setting_.block_size));
        positions.push_back(static_cast<int32_t>(p));
      }
      rows += part.rows;
      first_row.push_back(static_cast<int32_t>(rows));
      context.push_back(static_cast<int32_t>(part.begin + part.rows));
    }
    const int64_t kv_width = setting_.n_kv_heads * setting_.head_dim, width = setting_.n_heads * setting_.head_dim;
    Matrix q(rows + padding, width, 3), k(rows + padding, kv_width, 1), v(rows + padding, kv_width),
        out(rows + padding, width, 5);
    int64_t row = 0;
    for (const Part& part : parts) {
      for (int64_t p = part.begin; p < part.begin + part.rows; ++p, ++row) {
        for (int64_t i = 0; i < width; ++i) q.at(row, i) = part.sequence->q.at(p, i);
        for (int64_t i = 0; i < kv_width; ++i) k.at(row, i) = part.sequence->k.at(p, i);
        for (int64_t i = 0; i < kv_width; ++i) v.at(row, i) = part.sequence->v.at(p, i);
      }
    }
    for (int64_t i = 0; i < padding; ++i) {
      slots.push_back(-1);
      positions.push_back(0);
    }
    BatchView batch;
    batch.rows = rows + padding;
    batch.seqs = static_cast<int64_t>(parts.size());
    batch.positions = test::ints(positions);
    batch.first_row = test::ints(first_row);
    batch.context = test::ints(context);
    batch.cache[1].slots = test::ints(slots);
    batch.cache[1].block_table =
        Tensor(tables_.data(), DType::kI32, {static_cast<int64_t>(tables_.size()) / max_blocks_, max_blocks_});
    backend_->rope_and_cache(q.tensor(), k.tensor(), v.tensor(), Tensor(), batch, 1, shape_, layer());
    backend_->attention(out.tensor(), q.tensor(), batch, 1, shape_, layer());
    CHECK(out.gap_untouched());
    return out;
  }

  const AttentionShape& shape() const { return shape_; }

 private:
  CacheLayer layer() {
    const int64_t n = max_blocks_;
    return {Tensor(k_.data(), setting_.dtype, {n, setting_.n_kv_heads, setting_.block_size, setting_.head_dim}),
            Tensor(v_.data(), setting_.dtype, {n, setting_.n_kv_heads, setting_.block_size, setting_.head_dim})};
  }
  Setting setting_;
  std::unique_ptr<Backend> backend_;
  int64_t max_blocks_;
  std::vector<unsigned char> k_, v_;
  std::vector<int32_t> tables_, free_;
  std::map<int64_t, std::vector<int32_t>> blocks_;
  std::vector<float> slopes_, biases_, sinks_;
  AttentionShape shape_;
};

// The oracle: plain softmax attention of one row in double; `magnitude` is the same sum over absolute values.
struct Expected {
  double value, magnitude;
};
Expected expected(const Setting& s, const AttentionShape& shape, const Sequence& seq, int64_t p, int64_t h, int64_t i) {
  const int64_t g = h / (s.n_heads / s.n_kv_heads), d = s.head_dim;
  const int64_t low = s.window > 0 ? std::max<int64_t>(0, p - s.window + 1) : 0;
  const int64_t last = s.both_ways ? seq.q.rows() - 1 : p;
  std::vector<double> scores;
  for (int64_t j = low; j <= last; ++j) {
    double dot = 0;
    for (int64_t e = 0; e < d; ++e)
      dot += static_cast<double>(seq.q.at(p, h * d + e)) * static_cast<double>(seq.k.at(j, g * d + e));
    dot *= static_cast<double>(shape.scale);
    if (s.soft_cap > 0) dot = static_cast<double>(s.soft_cap) * std::tanh(dot / static_cast<double>(s.soft_cap));
    if (s.alibi) {
      const float slope = shape.alibi_slopes.as<float>()[h];
      dot += s.rounded ? static_cast<double>(bf16_to_f32(f32_to_bf16(slope * static_cast<float>(j)))) *
                             static_cast<double>(shape.scale)
                       : static_cast<double>(slope) * static_cast<double>(j - p);
    }
    if (s.reach > 0)
      dot += static_cast<double>(
          static_cast<const float*>(shape.distance_bias.row(h))[std::clamp(j - p, -s.reach, s.reach) + s.reach]);
    scores.push_back(dot);
  }
  double top = *std::max_element(scores.begin(), scores.end()), total = 0;
  if (s.sink) {
    const auto sink = static_cast<double>(shape.sinks.as<float>()[h]);
    top = std::max(top, sink);
    total = std::exp(sink - top);
  }
  double sum = 0, magnitude = 0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const double w = std::exp(scores[j] - top);
    total += w;
    const double v = static_cast<double>(seq.v.at(low + static_cast<int64_t>(j), g * d + i));
    sum += w * v;
    magnitude += w * std::abs(v);
  }
  return {sum / total, magnitude / total};
}

// In f32, scores err by some 2^-24 of their magnitude (tens), weights by as much relatively. Over a bf16 cache weights
// may be rounded to bf16: each by at most 2^-8 of itself.
double tolerance(const Setting& s, const Expected& want) {
  return 2e-5 + (s.dtype == DType::kBF16 ? want.magnitude * 0x1p-8 : 0.0);
}

void check_row(const Setting& s, const Paged& paged, const Sequence& seq, int64_t p, const Matrix& out, int64_t row) {
  double worst = 0;  // as a share of the tolerance
  for (int64_t h = 0; h < s.n_heads; ++h) {
    for (int64_t i = 0; i < s.head_dim; ++i) {
      const Expected want = expected(s, paged.shape(), seq, p, h, i);
      const double error = std::abs(static_cast<double>(out.at(row, h * s.head_dim + i)) - want.value);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error / tolerance(s, want));
    }
  }
  CAPTURE(p);
  CHECK(worst < 1);
}

TEST_CASE("attention equals plain softmax for every head layout, cache type, window, ALiBi and soft cap") {
  std::mt19937 random(11);
  std::vector<Setting> settings;
  for (const int64_t dim : {8, 16, 24, 40, 64, 72, 128, 256})
    settings.push_back({4, 2, dim, 16, 0, DType::kF32, false});
  for (const DType dtype : {DType::kBF16, DType::kF16}) settings.push_back({8, 2, 64, 16, 0, dtype, false});
  for (const int64_t dim : {8, 24, 80, 128, 256}) settings.push_back({6, 3, dim, 16, 0, DType::kBF16, false});
  settings.push_back({4, 2, 48, 8, 33, DType::kBF16, false});
  settings.push_back({40, 1, 96, 16, 0, DType::kBF16, true});
  settings.push_back({5, 1, 8, 4, 0, DType::kF32, false});
  settings.push_back({3, 3, 16, 32, 0, DType::kF32, true});
  settings.push_back({71, 1, 8, 16, 0, DType::kBF16, true});
  for (const int64_t window : {1, 5, 64, 100}) settings.push_back({4, 4, 16, 16, window, DType::kF32, false});
  settings.push_back({4, 2, 16, 1, 30, DType::kF16, true});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    settings.push_back({4, 2, 64, 16, 0, dtype, false, 2.0f});
    settings.push_back({8, 4, 24, 16, 40, dtype, false, 0.7f});
  }
  settings.push_back({4, 2, 64, 16, 0, DType::kBF16, true, 1.5f});
  for (const Setting& s : settings) {
    CAPTURE(s.soft_cap);
    CAPTURE(s.head_dim);
    CAPTURE(s.n_heads);
    CAPTURE(s.window);
    CAPTURE(dtype_name(s.dtype));
    const int64_t length = 150;
    Sequence seq(s, length, random);
    Paged paged(s, length / s.block_size + 3, 1);
    const Matrix out = paged.step({{0, &seq, 0, length - 2}});
    for (const int64_t p : {0, 1, 4, 5, 62, 63, 64, 65, 127, 128, 129, 147}) check_row(s, paged, seq, p, out, p);
    for (const int64_t p : {length - 2, length - 1}) check_row(s, paged, seq, p, paged.step({{0, &seq, p, 1}}), 0);
  }
}

TEST_CASE("attention with biases by distance, rounded slopes and keys on both sides equals plain softmax") {
  std::mt19937 random(15);
  std::vector<Setting> settings;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    settings.push_back({4, 2, 16, 16, 0, dtype, true, 0, true});
    for (const bool both_ways : {false, true}) {
      settings.push_back({3, 3, 24, 8, 0, dtype, false, 0, false, 128, both_ways});
      settings.push_back({4, 2, 16, 16, 0, dtype, false, 0, false, 20, both_ways});
    }
    settings.push_back({4, 4, 8, 16, 0, dtype, false, 0, false, 0, true});
  }
  for (const Setting& s : settings) {
    CAPTURE(s.reach);
    CAPTURE(s.both_ways);
    CAPTURE(s.rounded);
    CAPTURE(dtype_name(s.dtype));
    const int64_t length = 300;
    Sequence seq(s, length, random);
    Paged paged(s, length / s.block_size + 3, 1);
    const Matrix out = paged.step({{0, &seq, 0, length}});
    for (const int64_t p : {0, 1, 20, 21, 63, 64, 127, 128, 129, 130, 298, 299}) check_row(s, paged, seq, p, out, p);
    if (s.both_ways) continue;
    Paged cut(s, length / s.block_size + 3, 1);
    cut.step({{0, &seq, 0, 191}});
    const Matrix rest = cut.step({{0, &seq, 191, 109}});
    for (int64_t r = 0; r < 109; ++r) CHECK(rest.row_equals(r, out, 191 + r));
  }
}

TEST_CASE("a sink takes its share of the softmax of every row of its head") {
  std::mt19937 random(16);
  std::vector<Setting> settings;
  const auto add = [&](Setting s, float sink) {
    s.sink = sink;
    settings.push_back(s);
  };
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : {8, 24, 64, 80, 128, 256}) add({6, 3, dim, 16, 0, dtype}, 3);
    add({8, 1, 64, 16, 33, dtype}, -2);
    add({40, 1, 96, 16, 0, dtype, true}, -20);
    add({4, 4, 16, 8, 1, dtype, false, 2.0f}, 0.5f);
  }
  add({4, 2, 16, 16, 0, DType::kF32, true, 0, true}, 1);
  add({3, 3, 24, 8, 0, DType::kBF16, false, 0, false, 20}, 1);
  add({4, 4, 8, 16, 0, DType::kF32, false, 0, false, 0, true}, 1);
  for (const Setting& s : settings) {
    CAPTURE(s.head_dim);
    CAPTURE(s.n_heads);
    CAPTURE(dtype_name(s.dtype));
    const int64_t length = 150;
    Sequence seq(s, length, random);
    Paged paged(s, length / s.block_size + 3, 1);
    const int64_t first = s.both_ways ? length : length - 1;
    const Matrix out = paged.step({{0, &seq, 0, first}});
    for (const int64_t p : {0, 1, 4, 63, 64, 65, 128, 148}) check_row(s, paged, seq, p, out, p);
    if (first < length) check_row(s, paged, seq, first, paged.step({{0, &seq, first, 1}}), 0);
  }
}

TEST_CASE("a sink far below all scores changes no bit, and one far above leaves zeros") {
  std::mt19937 random(17);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 90}) {
      Setting s{4, 2, 64, 16, 0, dtype};
      Sequence seq(s, 100, random);
      const auto run = [&](std::optional<float> sink) {
        s.sink = sink;
        Paged paged(s, 20, 1);
        paged.step({{0, &seq, 0, 100 - rows}});
        return paged.step({{0, &seq, 100 - rows, rows}});
      };
      const Matrix without = run({}), below = run(-1e4f), above = run(1e4f);
      bool same = true, zeros = true;
      for (int64_t r = 0; r < rows; ++r) {
        same = same && below.row_equals(r, without, r);
        for (int64_t i = 0; i < above.cols(); ++i) zeros = zeros && above.at(r, i) == 0.0f;
      }
      CHECK(same);
      CHECK(zeros);
    }
  }
}

TEST_CASE("a row of attention does not depend on how the prompt was cut") {
  std::mt19937 random(12);
  for (const Setting& s : {Setting{8, 2, 64, 16, 0, DType::kBF16, false}, Setting{6, 3, 40, 8, 37, DType::kF32, false},
                           Setting{4, 2, 32, 16, 30, DType::kBF16, false, 1.0f, false, 0, false, 2.0f},
                           Setting{4, 1, 16, 16, 0, DType::kF16, true}}) {
    const int64_t length = 201;
    Sequence seq(s, length, random);
    Paged whole(s, 60, 1);
    const Matrix reference = whole.step({{0, &seq, 0, length}});
    for (const std::vector<int64_t>& cuts :
         {std::vector<int64_t>{1, 200}, {64, 64, 73}, {63, 65, 1, 72}, {17, 100, 83, 1}, {5, 5, 5, 5, 181}}) {
      Paged paged(s, 60, 1);
      int64_t begin = 0;
      bool same = true;
      for (const int64_t rows : cuts) {
        const Matrix out = paged.step({{0, &seq, begin, rows}});
        for (int64_t r = 0; r < rows; ++r) same = same && out.row_equals(r, reference, begin + r);
        begin += rows;
      }
      CHECK(begin == length);
      CHECK(same);
    }
    Paged one_by_one(s, 60, 1);
    bool same = true;
    for (int64_t p = 0; p < length; ++p) same = same && one_by_one.step({{0, &seq, p, 1}}).row_equals(0, reference, p);
    CHECK(same);
  }
}

TEST_CASE("a row of attention depends neither on the batch nor on the threads, and padding rows are zero") {
  std::mt19937 random(13);
  const Setting s{8, 2, 64, 16, 0, DType::kBF16, false};
  Sequence a(s, 90, random), b(s, 130, random), c(s, 40, random);
  Paged alone_a(s, 40, 1), alone_b(s, 40, 1), alone_c(s, 40, 1);
  alone_a.step({{0, &a, 0, 89}});
  const Matrix want_a = alone_a.step({{0, &a, 89, 1}});
  alone_b.step({{0, &b, 0, 50}});
  const Matrix want_b = alone_b.step({{0, &b, 50, 80}});
  const Matrix want_c = alone_c.step({{0, &c, 0, 40}});
  for (const int threads : {1, 2, 5}) {
    Paged together(s, 60, 4, threads);
    together.step({{1, &b, 0, 50}, {0, &a, 0, 89}});
    const Matrix out = together.step({{0, &a, 89, 1}, {2, &c, 0, 0}, {1, &b, 50, 80}, {2, &c, 0, 40}}, 3);
    CHECK(out.row_equals(0, want_a, 0));
    bool same = true;
    for (int64_t r = 0; r < 80; ++r) same = same && out.row_equals(1 + r, want_b, r);
    for (int64_t r = 0; r < 40; ++r) same = same && out.row_equals(81 + r, want_c, r);
    CHECK(same);
    for (int64_t r = 121; r < 124; ++r) {
      for (int64_t i = 0; i < out.cols(); ++i) CHECK(out.at(r, i) == 0.0f);
    }
  }
}

TEST_CASE("attention with large scores does not overflow") {
  std::mt19937 random(14);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Setting s{2, 2, 16, 16, 0, dtype, false};
    Sequence seq(s, 100, random);
    for (int64_t p = 0; p < 100; ++p) {
      for (int64_t i = 0; i < 32; ++i) seq.q.at(p, i) *= 512.0f;
    }
    Paged paged(s, 10, 1);
    const Matrix out = paged.step({{0, &seq, 0, 100}});
    for (int64_t p = 0; p < 100; ++p) {
      for (int64_t h = 0; h < 2; ++h) {
        // Scores of thousands: two keys that nearly tie may trade a little weight.
        const Expected want = expected(s, paged.shape(), seq, p, h, 0);
        CHECK(std::abs(static_cast<double>(out.at(p, h * 16)) - want.value) < 2e-3 + tolerance(s, want));
      }
    }
  }
}

TEST_CASE("rope_and_cache rotates half-split pairs, passes the rest and writes the cache") {
  const auto backend = test::make_backend();
  std::mt19937 random(15);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t rotary : {0, 8, 24}) {
      const int64_t dim = 24, nh = 3, nkv = 1, block_size = 4, rows = 5;
      Matrix q(rows, nh * dim, 1), k(rows, nkv * dim, 2), v(rows, nkv * dim), table(10, std::max<int64_t>(rotary, 1));
      q.fill(random);
      k.fill(random);
      v.fill(random);
      for (int64_t p = 0; p < 10; ++p) {
        for (int64_t i = 0; i < rotary / 2; ++i) {
          const float angle = static_cast<float>(p) * std::pow(10.0f, -static_cast<float>(i) * 0.3f);
          table.at(p, i) = std::cos(angle);
          table.at(p, rotary / 2 + i) = std::sin(angle);
        }
      }
      const Matrix q0 = q, k0 = k;
      std::vector<int32_t> positions{3, 4, 9, 0, 0}, slots{7, 8, 2, 0, -1};
      std::vector<unsigned char> kc(3 * 4 * 24 * dtype_bytes(dtype)), vc = kc;
      const CacheLayer cache{Tensor(kc.data(), dtype, {3, nkv, block_size, dim}),
                             Tensor(vc.data(), dtype, {3, nkv, block_size, dim})};
      BatchView batch;
      batch.rows = rows;
      batch.positions = test::ints(positions);
      batch.cache[0].slots = test::ints(slots);
      backend->rope_and_cache(q.tensor(), k.tensor(), v.tensor(), rotary > 0 ? table.tensor() : Tensor(), batch, 0,
                              {nh, nkv, dim, 1.0f, 0, {}, 0, false, {}, {}}, cache);
      const auto want = [&](const Matrix& x, int64_t r, int64_t c) {
        const int64_t i = c % dim, half = rotary / 2, p = positions[static_cast<size_t>(r)];
        const auto at = [&](int64_t e) { return static_cast<double>(x.at(r, c - i + e)); };
        const auto cs = [&](int64_t e) { return static_cast<double>(table.at(p, e)); };
        if (i >= rotary) return at(i);
        if (i < half) return at(i) * cs(i) - at(i + half) * cs(half + i);
        return at(i) * cs(i - half) + at(i - half) * cs(i);
      };
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < nh * dim; ++c) CHECK(std::abs(static_cast<double>(q.at(r, c)) - want(q0, r, c)) < 1e-6);
        for (int64_t c = 0; c < nkv * dim; ++c)
          CHECK(std::abs(static_cast<double>(k.at(r, c)) - want(k0, r, c)) < 1e-6);
      }
      CHECK(q.gap_untouched());
      const auto cached = [&](const Tensor& t, int64_t slot, int64_t i) {
        const int64_t e = slot * dim + i;
        if (dtype == DType::kF32) return t.as<float>()[e];
        const uint16_t bits = t.as<uint16_t>()[e];
        return dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
      };
      for (int64_t slot = 0; slot < 12; ++slot) {
        const auto row = std::find(slots.begin(), slots.end(), slot) - slots.begin();
        for (int64_t i = 0; i < dim; ++i) {
          const bool written = row < static_cast<int64_t>(slots.size());
          CHECK(cached(cache.k, slot, i) == (written ? test::rounded(k.at(row, i), dtype) : 0.0f));
          CHECK(cached(cache.v, slot, i) == (written ? test::rounded(v.at(row, i), dtype) : 0.0f));
        }
      }
    }
  }
}

}  // namespace
}  // namespace sluice

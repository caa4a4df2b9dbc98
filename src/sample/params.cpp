// SPDX-License-Identifier: Apache-2.0
#include "sample/params.h"

#include <cstring>
#include <type_traits>

#include "base/error.h"

namespace sluice {
namespace {
struct Writer {
  std::vector<std::byte>& out;
  template <class T>
  void operator()(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof(T));
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(static_cast<uint32_t>(values.size()));
    for (const T& value : values) (*this)(value);
  }
};

struct Reader {
  std::span<const std::byte>& in;
  template <class T>
  void operator()(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (in.size() < sizeof(T)) throw Error("sampling parameters are cut short");
    std::memcpy(&value, in.data(), sizeof(T));
    in = in.subspan(sizeof(T));
  }
  void operator()(bool& value) {
    uint8_t byte = 0;
    (*this)(byte);
    if (byte > 1) throw Error("sampling parameters hold a flag that is neither 0 nor 1");
    value = byte != 0;
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    uint32_t n = 0;
    (*this)(n);
    if (in.size() / sizeof(T) < n) throw Error("sampling parameters are cut short");
    values.resize(n);
    for (T& value : values) (*this)(value);
  }
};

// The one list of fields; both directions follow it.
template <class Params, class Visitor>
void visit_fields(Params& p, Visitor visit) {
  visit(p.greedy);
  visit(p.temperature);
  visit(p.top_k);
  visit(p.top_p);
  visit(p.min_p);
  visit(p.typical_p);
  visit(p.repetition_penalty);
  visit(p.frequency_penalty);
  visit(p.presence_penalty);
  visit(p.seed);
  visit(p.choice);
  visit(p.n_logprobs);
  visit(p.raw_logprobs);
  visit(p.eos_from);
  visit(p.eos_ids);
  visit(p.logit_bias);
  visit(p.epsilon_cutoff);
  visit(p.eta_cutoff);
  visit(p.no_repeat_ngram);
  visit(p.decay_factor);
  visit(p.decay_from);
  visit(p.begin_position);
  visit(p.decay_ids);
  visit(p.bad_words);
  visit(p.suppress);
  visit(p.begin_suppress);
  visit(p.allowed);
  visit(p.forced);
  visit(p.grammar);
  visit(p.end_position);
  visit(p.watermark_gamma);
  visit(p.watermark_delta);
}
}  // namespace

void SamplingParams::write(std::vector<std::byte>& out) const { visit_fields(*this, Writer{out}); }

SamplingParams SamplingParams::read(std::span<const std::byte>& in) {
  SamplingParams params;
  visit_fields(params, Reader{in});
  return params;
}

}  // namespace sluice

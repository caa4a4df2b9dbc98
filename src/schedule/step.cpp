// SPDX-License-Identifier: Apache-2.0
#include "schedule/step.h"

#include <cstring>
#include <type_traits>

#include "base/error.h"

namespace sluice {
namespace {

constexpr int32_t kMaxBeamEntries = 1 << 10;

[[noreturn]] void refuse(const char* what) {
  throw Error(std::string("control plane: expected a step of this build, found ") + what +
              "; start all ranks from one release");
}

template <class T>
void put(std::vector<std::byte>& out, const T* values, size_t n) {
  static_assert(std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>);
  const auto* bytes = reinterpret_cast<const std::byte*>(values);
  out.insert(out.end(), bytes, bytes + n * sizeof(T));
}

template <class T>
void put_all(std::vector<std::byte>& out, const std::vector<T>& values) {
  const auto n = static_cast<uint32_t>(values.size());
  put(out, &n, 1);
  put(out, values.data(), values.size());
}

template <class T>
T get(std::span<const std::byte>& in) {
  T value;
  if (in.size() < sizeof(T)) refuse("bytes that end early");
  std::memcpy(&value, in.data(), sizeof(T));
  in = in.subspan(sizeof(T));
  return value;
}

// A count is believed only as far as the bytes that are there.
uint32_t get_count(std::span<const std::byte>& in, size_t least_bytes) {
  const auto n = get<uint32_t>(in);
  if (n > in.size() / least_bytes) refuse("a list longer than its bytes");
  return n;
}

template <class T>
void get_all(std::span<const std::byte>& in, std::vector<T>& values) {
  const uint32_t n = get_count(in, sizeof(T));
  values.resize(n);
  if (n > 0) std::memcpy(values.data(), in.data(), n * sizeof(T));
  in = in.subspan(n * sizeof(T));
}

struct SequenceWire {
  int32_t slot, first_row, n_rows, first_position, phase;
};
struct InitWire {
  int32_t slot, history_begin, n_history, n_output, n_encoder, length;
};

// True when [begin, begin + n) lies in [0, size).
bool inside(int64_t begin, int64_t n, size_t size) {
  return begin >= 0 && n >= 0 && begin + n <= static_cast<int64_t>(size);
}

void validate(const Step& step) {
  for (const SlotInit& init : step.inits)
    if (init.slot < 0 || !inside(init.history_begin, init.n_history, step.history.size()) || init.n_output < 0 ||
        init.n_output > init.n_history || init.n_encoder < 0)
      refuse("a slot with a history outside the step");
  for (const BlockDelta& d : step.tables)
    if (d.slot < 0 || d.group < 0 || d.index < 0 || d.block < 0) refuse("a negative block or slot");
  for (const BlockCopy& c : step.copies)
    if (c.group < 0 || c.from < 0 || c.to < 0) refuse("a negative block");
  for (const StepSequence& s : step.sequences)
    if (s.slot < 0 || s.first_position < 0 || !inside(s.first_row, s.n_rows, step.tokens.size()))
      refuse("a sequence with rows outside the step");
  bool encoding = false;  // encoder prompts come last
  for (const StepSequence& s : step.sequences) {
    if (encoding && s.phase != Phase::kEncode) refuse("rows behind an encoder's prompt");
    encoding = s.phase == Phase::kEncode;
  }
  for (int32_t token : step.tokens)
    if (token < -1) refuse("a negative token");
  for (const SampleEntry& e : step.samples)
    if (e.slot < 0 || e.position < 0 || e.target < SampleEntry::kCandidates - kMaxBeamEntries ||
        !inside(e.row, 1, step.tokens.size()))
      refuse("a sample outside the step");
}

}  // namespace

void Step::clear() {
  id = 0;
  shutdown = false;
  inits.clear();
  history.clear();
  tables.clear();
  copies.clear();
  sequences.clear();
  tokens.clear();
  samples.clear();
}

void serialise(const Step& step, std::vector<std::byte>& out) {
  const uint32_t version = Step::kVersion, shutdown = step.shutdown ? 1 : 0;
  put(out, &version, 1);
  put(out, &step.id, 1);
  put(out, &shutdown, 1);
  const auto n_inits = static_cast<uint32_t>(step.inits.size());
  put(out, &n_inits, 1);
  for (const SlotInit& init : step.inits) {
    const InitWire wire{init.slot, init.history_begin, init.n_history, init.n_output, init.n_encoder, init.length};
    put(out, &wire, 1);
    init.params.write(out);
  }
  put_all(out, step.history);
  put_all(out, step.tables);
  put_all(out, step.copies);
  const auto n_sequences = static_cast<uint32_t>(step.sequences.size());
  put(out, &n_sequences, 1);
  for (const StepSequence& s : step.sequences) {
    const SequenceWire wire{s.slot, s.first_row, s.n_rows, s.first_position, static_cast<int32_t>(s.phase)};
    put(out, &wire, 1);
  }
  put_all(out, step.tokens);
  put_all(out, step.samples);
}

void deserialise(std::span<const std::byte> in, Step& step) {
  step.clear();
  if (const auto version = get<uint32_t>(in); version != Step::kVersion) refuse("another version");
  step.id = get<uint64_t>(in);
  const auto shutdown = get<uint32_t>(in);
  if (shutdown > 1) refuse("a flag that is neither 0 nor 1");
  step.shutdown = shutdown == 1;
  const uint32_t n_inits = get_count(in, sizeof(InitWire));
  for (uint32_t i = 0; i < n_inits; ++i) {
    const auto wire = get<InitWire>(in);
    step.inits.push_back({wire.slot, wire.history_begin, wire.n_history, wire.n_output, SamplingParams::read(in),
                          wire.n_encoder, wire.length});
  }
  get_all(in, step.history);
  get_all(in, step.tables);
  get_all(in, step.copies);
  const uint32_t n_sequences = get_count(in, sizeof(SequenceWire));
  for (uint32_t i = 0; i < n_sequences; ++i) {
    const auto wire = get<SequenceWire>(in);
    if (wire.phase < 0 || wire.phase > static_cast<int32_t>(Phase::kDecode)) refuse("an unknown phase");
    step.sequences.push_back(
        {wire.slot, wire.first_row, wire.n_rows, wire.first_position, static_cast<Phase>(wire.phase)});
  }
  get_all(in, step.tokens);
  get_all(in, step.samples);
  if (!in.empty()) refuse("bytes after its end");
  validate(step);
}

}  // namespace sluice

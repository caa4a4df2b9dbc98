// SPDX-License-Identifier: Apache-2.0
#include "text/scanner.h"

#include <bit>

#include "base/error.h"
#include "text/scanner_parser.h"
#include "text/unicode.h"

namespace sluice {

std::optional<Scanner> Scanner::compile(std::string_view pattern) {
  ScannerProgram program;
  if (!parse_scanner(pattern, program)) return std::nullopt;
  Scanner scanner(program.sets, std::move(program.ops), program.entries);
  for (const uint32_t entry : scanner.entries_) {
    if (scanner.matches_empty(entry)) return std::nullopt;
  }
  return scanner;
}

bool Scanner::matches_empty(size_t op) const {
  for (;; ++op) {
    const Op& o = ops_[op];
    if (o.kind == Op::Kind::kAccept) return true;
    if (o.kind == Op::Kind::kSet || (o.kind == Op::Kind::kRepeat && o.min > 0)) return false;
    if (o.kind == Op::Kind::kSplit) return matches_empty(o.first) || matches_empty(o.second);
    if (o.kind == Op::Kind::kJump) op = o.first - 1;
  }
}

// What a match of the rest may begin with. `certain` turns false where it may also begin with nothing or look ahead.
CodeSet Scanner::start_of(const std::vector<CodeSet>& sets, size_t op, bool& certain) const {
  CodeSet out;
  for (;; ++op) {
    const Op& o = ops_[op];
    switch (o.kind) {
      case Op::Kind::kSet:
        out.add(sets[static_cast<size_t>(std::countr_zero(o.set))]);
        return out;
      case Op::Kind::kRepeat:
        out.add(sets[static_cast<size_t>(std::countr_zero(o.set))]);
        if (o.min > 0) return out;
        break;
      case Op::Kind::kSplit:
        out.add(start_of(sets, o.first, certain));
        out.add(start_of(sets, o.second, certain));
        return out;
      case Op::Kind::kJump:
        op = o.first - 1;
        break;
      case Op::Kind::kNotAhead:
        certain = false;
        break;
      case Op::Kind::kAccept:
        certain = false;
        return out;
    }
  }
}

Scanner::Scanner(const std::vector<CodeSet>& sets, std::vector<Op> ops, const std::vector<uint32_t>& entries)
    : table_(sets), ops_(std::move(ops)), entries_(entries) {
  for (size_t i = 0; i < ops_.size(); ++i) {
    if (ops_[i].kind != Op::Kind::kRepeat) continue;
    bool certain = true;
    const CodeSet next = start_of(sets, i + 1, certain);
    const CodeSet& own = sets[static_cast<size_t>(std::countr_zero(ops_[i].set))];
    ops_[i].keep = ops_[i + 1].kind == Op::Kind::kAccept || (certain && !own.meets(next));
  }
  for (size_t e = 0; e < entries_.size(); ++e) {
    bool certain = true;
    const CodeSet start = start_of(sets, entries_[e], certain);
    const bool beyond = !start.ranges().empty() && start.ranges().back().second >= 0x80;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (byte < 0x80 ? start.contains(byte) : beyond) possible_[byte] |= 1u << e;
    }
  }
}

struct Scanner::Run {
  const Scanner& scanner;
  std::string_view text;
  int64_t steps = 0;

  uint32_t sets_at(size_t& at) const {
    const auto byte = static_cast<uint8_t>(text[at]);
    if (byte < 0x80) {
      ++at;
      return scanner.table_.ascii(byte);
    }
    return scanner.table_[next_code(text, at)];
  }

  // The end of a match from op `pc` at byte `at`, or npos.
  size_t match(size_t pc, size_t at) {
    constexpr size_t kNone = std::string_view::npos;
    for (;; ++pc) {
      const Op& op = scanner.ops_[pc];
      switch (op.kind) {
        case Op::Kind::kSet:
          if (at >= text.size() || (sets_at(at) & op.set) == 0) return kNone;
          break;
        case Op::Kind::kRepeat: {
          size_t end = at, n = 0;
          while (n < op.max && end < text.size()) {
            size_t next = end;
            if ((sets_at(next) & op.set) == 0) break;
            end = next;
            ++n;
          }
          if (n < op.min) return kNone;
          if (op.keep) {
            at = end;
            break;
          }
          for (;;) {
            const size_t found = match(pc + 1, end);
            if (found != kNone) return found;
            if (n == op.min) return kNone;
            --n;
            --end;
            while ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
            count();
          }
        }
        case Op::Kind::kSplit: {
          const size_t found = match(op.first, at);
          if (found != kNone) return found;
          count();
          pc = op.second - 1;
          break;
        }
        case Op::Kind::kJump:
          pc = op.first - 1;
          break;
        case Op::Kind::kNotAhead: {
          size_t next = at;
          if (at < text.size() && (sets_at(next) & op.set) != 0) return kNone;
          break;
        }
        case Op::Kind::kAccept:
          return at;
      }
    }
  }
  void count() {
    if (++steps > kMaxSteps) {
      throw RequestError(RequestError::Kind::kValidation,
                         "the text cannot be tokenised within limits: the pattern backtracks without end");
    }
  }
};

bool Scanner::find(std::string_view text, size_t from, size_t& begin, size_t& end) const {
  Run run{*this, text};
  for (size_t at = from; at < text.size();) {
    for (uint32_t left = possible_[static_cast<uint8_t>(text[at])]; left != 0; left &= left - 1) {
      const size_t found = run.match(entries_[static_cast<size_t>(std::countr_zero(left))], at);
      if (found == std::string_view::npos) continue;
      begin = at;
      end = found;
      return true;
    }
    next_code(text, at);
    run.count();
  }
  return false;
}

}  // namespace sluice

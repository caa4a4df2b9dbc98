// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <fmt/format.h>
#include <oniguruma.h>

#include <optional>

#include "base/error.h"
#include "text/code_set.h"
#include "text/scanner.h"

namespace sluice {
namespace {
constexpr unsigned long kRetryLimit = 10'000'000;  // per search; the engine's own default for one match

const OnigUChar* bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

std::string reason(int code, OnigErrorInfo* info) {
  OnigUChar buffer[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length =
      info != nullptr ? onig_error_code_to_str(buffer, code, info) : onig_error_code_to_str(buffer, code);
  return std::string(reinterpret_cast<char*>(buffer), static_cast<size_t>(length));
}
}  // namespace

struct Regex::Impl {
  regex_t* compiled = nullptr;
  std::optional<Scanner> scanner;  // runs in the engine's place
  std::string text;                // when not compiled: searched for as it stands
  ~Impl() {
    if (compiled != nullptr) onig_free(compiled);
  }
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex::Regex(const std::string& pattern, Use use) : impl_(std::make_unique<Impl>()) {
  start_oniguruma();
  OnigErrorInfo info;
  const OnigUChar* begin = bytes(pattern);
  const int code = onig_new(&impl_->compiled, begin, begin + pattern.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            ONIG_SYNTAX_RUBY, &info);
  if (code != ONIG_NORMAL) {
    impl_->compiled = nullptr;
    throw Error(fmt::format("regular expression {} does not compile: {}", pattern, reason(code, &info)));
  }
  if (use == Use::kFastest) impl_->scanner = Scanner::compile(pattern);
}

bool Regex::scans() const { return impl_->scanner.has_value(); }

Regex Regex::literal(std::string_view text) {
  if (text.empty()) return Regex(std::string());  // matches between all characters
  auto impl = std::make_unique<Impl>();
  impl->text = text;
  return Regex(std::move(impl));
}

void Regex::each(std::string_view text, const std::function<void(size_t, size_t)>& match) const {
  if (impl_->compiled == nullptr) {
    for (size_t at = 0; (at = text.find(impl_->text, at)) != std::string_view::npos; at += impl_->text.size()) {
      match(at, at + impl_->text.size());
    }
    return;
  }
  if (impl_->scanner) {
    for (size_t begin = 0, end = 0; impl_->scanner->find(text, end, begin, end);) match(begin, end);
    return;
  }
  const std::unique_ptr<OnigRegion, void (*)(OnigRegion*)> region(onig_region_new(),
                                                                  [](OnigRegion* r) { onig_region_free(r, 1); });
  const std::unique_ptr<OnigMatchParam, void (*)(OnigMatchParam*)> param(onig_new_match_param(), onig_free_match_param);
  onig_initialize_match_param(param.get());
  onig_set_retry_limit_in_search_of_match_param(param.get(), kRetryLimit);
  const OnigUChar* begin = bytes(text);
  const OnigUChar* end = begin + text.size();
  size_t from = 0, last_end = std::string_view::npos;
  while (from <= text.size()) {
    const int code = onig_search_with_param(impl_->compiled, begin, end, begin + from, end, region.get(),
                                            ONIG_OPTION_NONE, param.get());
    if (code == ONIG_MISMATCH) return;
    if (code < 0) {
      throw RequestError(RequestError::Kind::kValidation,
                         fmt::format("the text cannot be tokenised within limits: {}", reason(code, nullptr)));
    }
    const size_t first = static_cast<size_t>(region->beg[0]), last = static_cast<size_t>(region->end[0]);
    from = last;
    if (first == last) {  // step over one character
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
      if (last_end == last) continue;
    }
    last_end = last;
    match(first, last);
  }
}

}  // namespace sluice

// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <memory>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace sluice {
namespace {

void replace_all(std::string& text, const Regex& pattern, const std::string& content) {
  std::string out;
  size_t kept = 0;
  pattern.each(text, [&](size_t begin, size_t end) {
    out.append(text, kept, begin - kept);
    out += content;
    kept = end;
  });
  if (kept == 0 && out.empty()) return;
  out.append(text, kept);
  text = std::move(out);
}

void strip(std::string& text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  if (left) {
    for (size_t at = 0; at < end && is_space(next_code(text, at)); begin = at) {
    }
  }
  if (right) {
    while (end > begin) {
      const std::string_view rest = std::string_view(text).substr(begin, end - begin);
      const char32_t code = last_code(rest);
      if (!is_space(code)) break;
      std::string encoded;
      append_utf8(encoded, code);
      end -= encoded.size();
    }
  }
  text = text.substr(begin, end - begin);
}

void strip_accents(std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_code(text, at);
    if (!is_mark(code)) append_utf8(out, code);
  }
  text = std::move(out);
}

}  // namespace

Normalizer::Normalizer(const ComponentJson& json) { add(json); }

void Normalizer::add(const ComponentJson& json) {
  const std::string type = json.type();
  const auto form = [&](NormalForm f) { stages_.push_back([f](std::string& text) { text = normal_form(text, f); }); };
  if (type == "Sequence") {
    for (const Value& item : json.list("normalizers")) add({item, json.where});
  } else if (type == "NFC") {
    form(NormalForm::kNfc);
  } else if (type == "NFD") {
    form(NormalForm::kNfd);
  } else if (type == "NFKC") {
    form(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    form(NormalForm::kNfkd);
  } else if (type == "Lowercase") {
    stages_.push_back([](std::string& text) { text = lower(text); });
  } else if (type == "StripAccents") {
    stages_.push_back(strip_accents);
  } else if (type == "Strip") {
    const bool left = json.flag("strip_left", true), right = json.flag("strip_right", true);
    stages_.push_back([left, right](std::string& text) { strip(text, left, right); });
  } else if (type == "Prepend") {
    stages_.push_back([prefix = json.text("prepend")](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
    });
  } else if (type == "Replace") {
    stages_.push_back([pattern = std::make_shared<Regex>(json.pattern("pattern")),
                       content = json.text("content")](std::string& text) { replace_all(text, *pattern, content); });
  } else if (type == "ByteLevel") {
    stages_.push_back([](std::string& text) {
      std::string out;
      append_byte_level(out, text);
      text = std::move(out);
    });
  } else {
    json.refuse_type();
  }
}

void Normalizer::apply(std::string& text) const {
  for (const auto& stage : stages_) stage(text);
}

}  // namespace sluice

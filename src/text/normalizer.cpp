// SPDX-License-Identifier: Apache-2.0
#include "text/normalizer.h"

#include <memory>

#include "base/error.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/charsmap.h"
#include "text/unicode.h"

namespace sluice {
namespace {

// Each stage is false when it drops what the text begins with.
bool replace_all(std::string& text, const Regex& pattern, const std::string& content) {
  std::string out;
  size_t kept = 0;
  bool dropped = false;
  pattern.each(text, [&](size_t begin, size_t end) {
    out.append(text, kept, begin - kept);
    out += content;
    dropped |= begin == 0 && end > 0 && content.empty();
    kept = end;
  });
  if (kept == 0 && out.empty()) return true;
  out.append(text, kept);
  text = std::move(out);
  return !dropped;
}

bool strip(std::string& text, bool left, bool right) {
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
  return begin == 0;
}

// Rewrites the text code point by code point: f(code, out).
template <class F>
bool each_code(std::string& text, F f) {
  std::string out;
  out.reserve(text.size());
  bool dropped = false;
  for (size_t at = 0; at < text.size();) {
    const bool first = at == 0;
    f(next_code(text, at), out);
    if (first) dropped = out.empty();
  }
  text = std::move(out);
  return !dropped;
}

// Control characters go, what the translation models take for white space becomes a space.
void nmt(char32_t c, std::string& out) {
  if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return;
  const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                     c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  append_utf8(out, space ? ' ' : c);
}

void bert_clean(char32_t c, std::string& out) {
  const bool line = c == '\t' || c == '\n' || c == '\r';
  if (c == 0 || c == kReplacement || (!line && is_other(c))) return;
  append_utf8(out, is_space(c) ? ' ' : c);
}

void bert_ideographs(char32_t c, std::string& out) {
  const bool ideograph = (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
                         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
                         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
                         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  if (ideograph) out += ' ';
  append_utf8(out, c);
  if (ideograph) out += ' ';
}

bool bert_strip_accents(std::string& text) {
  text = normal_form(text, NormalForm::kNfd);
  return each_code(text, [](char32_t c, std::string& out) {
    if (!is_nonspacing_mark(c)) append_utf8(out, c);
  });
}

bool lower_all(std::string& text) {
  text = lower(text);
  return true;
}

}  // namespace

Normalizer::Normalizer(const ComponentJson& json) { add(json); }

void Normalizer::add(const ComponentJson& json) {
  const std::string type = json.type();
  const auto form = [&](NormalForm f) {
    stages_.push_back([f](std::string& text) {
      text = normal_form(text, f);
      return true;
    });
  };
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
    stages_.push_back(lower_all);
  } else if (type == "StripAccents") {
    stages_.push_back([](std::string& text) {
      return each_code(text, [](char32_t c, std::string& out) {
        if (!is_mark(c)) append_utf8(out, c);
      });
    });
  } else if (type == "Strip") {
    const bool left = json.flag("strip_left", true), right = json.flag("strip_right", true);
    stages_.push_back([left, right](std::string& text) { return strip(text, left, right); });
  } else if (type == "Prepend") {
    stages_.push_back([prefix = json.text("prepend")](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
      return true;
    });
  } else if (type == "Replace") {
    stages_.push_back([pattern = std::make_shared<Regex>(json.pattern("pattern")), content = json.text("content")](
                          std::string& text) { return replace_all(text, *pattern, content); });
  } else if (type == "ByteLevel") {
    stages_.push_back([](std::string& text) {
      std::string out;
      append_byte_level(out, text);
      text = std::move(out);
      return true;
    });
  } else if (type == "Nmt") {
    stages_.push_back([](std::string& text) { return each_code(text, nmt); });
  } else if (type == "Precompiled") {
    std::string bytes;
    if (!decode_base64(json.text("precompiled_charsmap"), bytes))
      json.refuse("\"precompiled_charsmap\" should be base64");
    try {
      stages_.push_back([map = std::make_shared<Charsmap>(bytes)](std::string& text) {
        text = map->apply(text);
        return true;
      });
    } catch (const Error& error) {
      json.refuse(std::string("\"precompiled_charsmap\" is damaged: ") + error.what());
    }
  } else if (type == "BertNormalizer") {
    const bool lowers = json.flag("lowercase", true);
    if (json.flag("clean_text", true)) stages_.push_back([](std::string& text) { return each_code(text, bert_clean); });
    if (json.flag("handle_chinese_chars", true))
      stages_.push_back([](std::string& text) { return each_code(text, bert_ideographs); });
    if (json.flag("strip_accents", lowers)) stages_.push_back(bert_strip_accents);
    if (lowers) stages_.push_back(lower_all);
  } else {
    json.refuse_type();
  }
}

bool Normalizer::apply(std::string& text) const {
  bool from_start = true;
  for (const auto& stage : stages_) from_start = stage(text) && from_start;
  return from_start;
}

}  // namespace sluice

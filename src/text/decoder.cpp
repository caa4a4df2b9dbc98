// SPDX-License-Identifier: Apache-2.0
#include "text/decoder.h"

#include <functional>
#include <memory>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace sluice {
namespace {

// What the chain does to one token, stage by stage, and what it does to the joined text.
struct Plan {
  DecodeTable table;
  struct Token {
    std::string text, first, last;
    bool is_byte = false;
  };
  std::vector<std::function<void(Token&)>> stages;
  bool fused = false;  // what follows acts on the whole text
  bool ended = false;  // nothing may follow
};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte of "<0xHH>", -1 for other tokens.
int fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void each_form(Plan::Token& token, const std::function<void(std::string&)>& f) {
  if (token.is_byte) return;
  f(token.text);
  f(token.first);
  f(token.last);
}

void replace_all(const Regex& pattern, const std::string& content, std::string& text) {
  std::string out;
  size_t kept = 0;
  pattern.each(text, [&](size_t begin, size_t end) {
    out.append(text, kept, begin - kept);
    out += content;
    kept = end;
  });
  out.append(text, kept);
  text = std::move(out);
}

void replace_text(std::string& text, std::string_view from, std::string_view to) {
  size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string out;
  size_t kept = 0;
  for (; at != std::string::npos; at = text.find(from, kept)) {
    out.append(text, kept, at - kept);
    out += to;
    kept = at + from.size();
  }
  out.append(text, kept);
  text = std::move(out);
}

// What WordPiece's decoder tidies in each token.
void clean_up(std::string& text) {
  static constexpr std::pair<const char*, const char*> kChanges[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kChanges) replace_text(text, from, to);
}

// Up to `left` leading and `right` trailing copies of `c`.
void strip(std::string& text, const std::string& c, int64_t left, int64_t right) {
  for (; left > 0 && text.starts_with(c); --left) text.erase(0, c.size());
  for (; right > 0 && text.ends_with(c); --right) text.resize(text.size() - c.size());
}

// A token with any character outside the byte map stands for itself.
void to_bytes(std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const int b = byte_level_byte(next_code(text, at));
    if (b < 0) return;
    out += static_cast<char>(b);
  }
  text = std::move(out);
}

void add_stage(const ComponentJson& json, Plan& plan) {
  const std::string type = json.type();
  if (type == "Sequence") {
    for (const Value& item : json.list("decoders")) add_stage({item, json.where}, plan);
    return;
  }
  if (plan.ended) json.refuse(type + " after BPEDecoder is not supported");
  const auto per_token = [&] {
    if (plan.fused || plan.table.bytes == DecodeTable::Bytes::kByteLevel)
      json.refuse(type + " after Fuse or ByteLevel is not supported");
  };
  if (type == "ByteLevel") {
    per_token();
    if (plan.table.bytes != DecodeTable::Bytes::kNone) json.refuse("ByteLevel after ByteFallback is not supported");
    plan.table.bytes = DecodeTable::Bytes::kByteLevel;
    plan.stages.push_back([](Plan::Token& token) { each_form(token, to_bytes); });
  } else if (type == "ByteFallback") {
    per_token();
    plan.table.bytes = DecodeTable::Bytes::kFallback;
    plan.stages.push_back([](Plan::Token& token) {
      const int b = fallback_byte(token.text);
      if (b < 0) return;
      token.text = token.first = token.last = std::string(1, static_cast<char>(b));
      token.is_byte = true;
    });
  } else if (type == "Fuse") {
    plan.fused = true;
  } else if (type == "Replace") {
    per_token();
    plan.stages.push_back([pattern = std::make_shared<Regex>(json.pattern("pattern")),
                           content = json.text("content")](Plan::Token& token) {
      each_form(token, [&](std::string& text) { replace_all(*pattern, content, text); });
    });
  } else if (type == "Strip") {
    const std::string c = json.text("content");
    if (count_codes(c) != 1) json.refuse("\"content\" should be one character");
    const int64_t left = json.integer("start", 0), right = json.integer("stop", 0);
    if (!plan.fused) {
      per_token();
      plan.stages.push_back([c, left, right](Plan::Token& token) {
        each_form(token, [&](std::string& text) { strip(text, c, left, right); });
      });
    } else if (right > 0 || !plan.table.strip.empty()) {
      json.refuse("Strip after Fuse is supported once and for the start of the text only");
    } else {
      plan.table.strip = c;
      plan.table.strip_left = static_cast<int32_t>(left);
    }
  } else if (type == "Metaspace") {
    per_token();
    const std::string mark = json.text("replacement", "▁");
    if (count_codes(mark) != 1) json.refuse("\"replacement\" should be one character");
    const bool keep_first = json.text("prepend_scheme", "always") == "never" || !json.flag("add_prefix_space", true);
    plan.table.first_differs = true;
    plan.stages.push_back([mark, keep_first](Plan::Token& token) {
      if (token.is_byte) return;
      const Regex pattern = Regex::literal(mark);
      replace_all(pattern, " ", token.text);
      replace_all(pattern, " ", token.last);
      replace_all(pattern, keep_first ? " " : "", token.first);
    });
  } else if (type == "WordPiece") {
    per_token();
    const std::string prefix = json.text("prefix", "##");
    const bool cleans = json.flag("cleanup", true);
    plan.table.first_differs = true;
    plan.stages.push_back([prefix, cleans](Plan::Token& token) {
      if (token.is_byte) return;
      for (std::string* text : {&token.text, &token.last}) {
        if (text->starts_with(prefix)) {
          text->erase(0, prefix.size());
        } else {
          text->insert(0, 1, ' ');
        }
      }
      if (cleans) each_form(token, clean_up);
    });
  } else if (type == "BPEDecoder") {
    per_token();
    if (plan.table.first_differs) json.refuse("BPEDecoder after Metaspace or WordPiece is not supported");
    const std::string suffix = json.text("suffix", "</w>");
    if (suffix.empty()) json.refuse("\"suffix\" should not be empty");
    plan.table.last_differs = true;
    plan.ended = true;
    plan.stages.push_back([suffix](Plan::Token& token) {
      if (token.is_byte) return;
      replace_text(token.text, suffix, " ");
      token.first = token.text;
      replace_text(token.last, suffix, "");
    });
  } else {
    json.refuse_type();
  }
}

}  // namespace

void DecodeTable::add(std::string_view text, std::string_view as_first, std::string_view as_last, bool byte,
                      bool skip) {
  blob += text;
  begin.push_back(static_cast<uint32_t>(blob.size()));
  if (first_differs) {
    first_blob += as_first;
    first_begin.push_back(static_cast<uint32_t>(first_blob.size()));
  }
  if (last_differs) {
    last_blob += as_last;
    last_begin.push_back(static_cast<uint32_t>(last_blob.size()));
  }
  is_byte.push_back(byte);
  special.push_back(skip);
}

DecodeTable compile_decoder(const Value* json, const std::string& where, const std::vector<std::string>& tokens,
                            const std::vector<uint8_t>& special) {
  Plan plan;
  if (json == nullptr || json->is_null()) {
    plan.table.separator.push_back(' ');
  } else {
    add_stage({*json, where}, plan);
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    Plan::Token token{tokens[id], tokens[id], tokens[id]};
    for (const auto& stage : plan.stages) stage(token);
    plan.table.add(token.text, token.first, token.last, token.is_byte, special[id] != 0);
  }
  return std::move(plan.table);
}

}  // namespace sluice

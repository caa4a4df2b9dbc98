// SPDX-License-Identifier: Apache-2.0
#include "api/logprobs.h"

#include <algorithm>

#include "api/json.h"

namespace sluice {
namespace {

void append_entry(std::string& out, const TokenInfo& token, bool by_id) {
  out += "{\"token\":";
  append_json_string(out, token_name(token, by_id));
  out += ",\"logprob\":";
  append_json_number(out, floored_logprob(token.logprob));
  out += ",\"bytes\":[";
  for (size_t i = 0; i < token.text.size(); ++i) {
    if (i > 0) out += ',';
    append_integer(out, static_cast<unsigned char>(token.text[i]));
  }
  out += ']';
}

}  // namespace

float floored_logprob(float logprob) { return std::max(logprob, -9999.0f); }

std::string token_name(const TokenInfo& token, bool by_id) {
  return by_id ? "token_id:" + std::to_string(token.id) : token.text;
}

void append_logprobs(std::string& out, const TokenInfo* tokens, size_t count, bool by_id) {
  out += '[';
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    append_entry(out, tokens[i], by_id);
    out += ",\"top_logprobs\":[";
    for (size_t k = 0; k < tokens[i].top.size(); ++k) {
      if (k > 0) out += ',';
      append_entry(out, tokens[i].top[k], by_id);
      out += '}';
    }
    out += "]}";
  }
  out += ']';
}

}  // namespace sluice

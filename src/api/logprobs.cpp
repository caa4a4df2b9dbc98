// SPDX-License-Identifier: Apache-2.0
#include "api/logprobs.h"

#include <algorithm>

#include "api/json.h"

namespace sluice {
namespace {

void append_entry(std::string& out, const TokenInfo& token) {
  out += "{\"token\":";
  append_json_string(out, token.text);
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

void append_logprobs(std::string& out, const TokenInfo* tokens, size_t count) {
  out += '[';
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    append_entry(out, tokens[i]);
    out += ",\"top_logprobs\":[";
    for (size_t k = 0; k < tokens[i].top.size(); ++k) {
      if (k > 0) out += ',';
      append_entry(out, tokens[i].top[k]);
      out += '}';
    }
    out += "]}";
  }
  out += ']';
}

}  // namespace sluice

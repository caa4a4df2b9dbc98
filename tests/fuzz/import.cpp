// SPDX-License-Identifier: Apache-2.0
// Tokenizers without tokenizer.json. First byte 'm': vocab.json, merges.txt, added_tokens.json and
// tokenizer_config.json, a NUL between them; anything else: tokenizer_config.json, NUL, tokenizer.model. What is
// imported must load.
#include "text/import.h"

#include "fuzz/fuzz.h"
#include "text/tokenizer.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view rest = fuzz::text_of(data + 1, size - 1);
  static const fuzz::Folder merges, model;
  const fuzz::Folder& folder = data[0] == 'm' ? merges : model;
  std::string_view config;
  if (data[0] == 'm') {
    folder.write("vocab.json", fuzz::take_part(rest));
    folder.write("merges.txt", fuzz::take_part(rest));
    const std::string_view extra = fuzz::take_part(rest);
    folder.write("added_tokens.json", extra.empty() ? "{}" : extra);
    config = rest;
  } else {
    config = fuzz::take_part(rest);
    folder.write("tokenizer.model", rest);
  }
  fuzz::accepts([&] {
    const Value settings = config.empty() ? Value(Dict{}) : Value::parse_json(config);
    if (!settings.is_dict()) return;  // as its reader demands
    const auto imported = import_tokenizer(folder.path(), settings);
    fuzz::demand(imported.has_value(), "the files are not found");
    const auto tokenizer = Tokenizer::from_json(imported->json.dump_json(), imported->config.dump_json(), "imported");
    tokenizer->decode(tokenizer->encode("Hello  world 1234 \xe4\xb8\x96\n", true), false);
  });
  return 0;
}

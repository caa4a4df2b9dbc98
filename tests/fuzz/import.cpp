// SPDX-License-Identifier: Apache-2.0
// Tokenizers without tokenizer.json. First byte: which importer; then its file. What is imported must load.
#include "text/import.h"

#include "fuzz/fuzz.h"
#include "text/tokenizer.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view rest = fuzz::text_of(data + 1, size - 1);
  fuzz::accepts([&] {
    ImportedTokenizer imported;
    const Value none{Dict{}};
    if (data[0] == 'm') {  // vocab.json, NUL, merges.txt
      const std::string_view vocab = fuzz::take_part(rest);
      imported = import_merges(Value::parse_json(vocab), rest, Value(), none, "vocab.json");
    } else if (is_tiktoken(rest)) {
      imported = import_tiktoken(rest, none, "tokenizer.model");
    } else {
      imported = import_sentencepiece(rest, none, "tokenizer.model");
    }
    const auto tokenizer = Tokenizer::from_json(imported.json.dump_json(), imported.config.dump_json(), "imported");
    tokenizer->decode(tokenizer->encode("Hello  world 1234 \xe4\xb8\x96\n", true), false);
  });
  return 0;
}

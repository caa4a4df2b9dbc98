// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, NUL, text to encode, NUL, tokenizer_config.json: ids stay within the vocabulary, decoding and the
// incremental detokeniser end.
#include "text/tokenizer.h"

#include "fuzz/fuzz.h"
#include "text/detokenizer.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest = fuzz::text_of(data, size);
  const std::string_view json = fuzz::take_part(rest);
  const std::string_view text = fuzz::take_part(rest).substr(0, 4096);
  fuzz::accepts([&] {
    const auto tokenizer = Tokenizer::from_json(json, rest, "tokenizer.json");
    for (const bool special : {false, true}) {
      const std::vector<int32_t> ids = tokenizer->encode(text, special);
      for (const int32_t id : ids)
        fuzz::demand(id >= 0 && id < tokenizer->vocab_size(), "a token outside the vocabulary");
      tokenizer->decode(ids, special);
      tokenizer->decode(ids, !special);
    }
    const int32_t odd[] = {-1, 0, INT32_MAX, INT32_MIN, tokenizer->vocab_size()};
    tokenizer->decode(odd, false);
  });
  return 0;
}

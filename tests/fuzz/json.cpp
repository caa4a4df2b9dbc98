// SPDX-License-Identifier: Apache-2.0
// JSON of the text room and of the server: both accept the same documents, up to their depths, and writing what was
// read and reading it again changes nothing.
#include "api/json.h"

#include "fuzz/fuzz.h"
#include "text/value.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::accepts([&] {
    const std::string once = Value::parse_json(text).dump_json();
    fuzz::demand(Value::parse_json(once).dump_json() == once, "JSON changes when read again");
  });
  fuzz::accepts([&] {
    const JsonBody body(text);
    const std::string once = body.root().dump();
    fuzz::demand(JsonBody(once).root().dump() == once, "a body changes when read again");
    body.root().value();
    body.root().describe();
    if (const auto string = body.root().string()) {
      std::string written;
      append_json_string(written, *string);
      fuzz::demand(JsonBody(written).root().string() == string, "a string is not written as it was read");
    }
  });
  outline(text);
  utf8_length(text);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Bodies of Text Generation Inference, up to the engine's request. First byte: 's' is the streaming route.
#include "api/dialects/tgi_parse.h"

#include "fuzz/service.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const HttpRequest request = fuzz::json_request(fuzz::text_of(data + 1, size - 1));
  fuzz::accepts([&] {
    try {
      const tgi::Parameters parameters = tgi::read(request);
      fuzz::demand_sound(tgi::prepare(parameters, fuzz::service(), data[0] == 's', false).request);
    } catch (const tgi::BodyRejection& rejection) {
      fuzz::demand(!rejection.text.empty() && rejection.status >= 400 && rejection.status < 500,
                   "a rejection without words or status");
    }
  });
  return 0;
}

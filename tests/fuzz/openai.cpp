// SPDX-License-Identifier: Apache-2.0
// Bodies of the OpenAI routes, up to the engine's request. First byte: 'c' is chat, anything else completions.
#include "api/dialects/openai_parse.h"

#include "fuzz/service.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const HttpRequest request = fuzz::json_request(fuzz::text_of(data + 1, size - 1));
  fuzz::accepts([&] {
    const openai::Call call = data[0] == 'c' ? openai::read_chat(request, fuzz::service(), openai::Manner::kVllm)
                                             : openai::read_completion(request, fuzz::service(), openai::Manner::kTgi);
    fuzz::demand(!call.requests.empty(), "a call without a request");
    for (const GenerateRequest& generate : call.requests) fuzz::demand_sound(generate);
  });
  return 0;
}

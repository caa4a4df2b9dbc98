// SPDX-License-Identifier: Apache-2.0
// Bodies of the OpenAI routes, up to the engine's request, NUL, the model's answer, in which calls are looked for.
// First byte: 'c' is chat, 'w' chat with a template that shows no tools, anything else completions.
#include "api/dialects/openai_parse.h"

#include "fuzz/service.h"

using namespace sluice;

namespace {
const Service& without_tools() {
  static const auto chat = ChatTemplate::from_text("{% for m in messages %}{{ m.content }}{% endfor %}");
  static const Service service = [] {
    Service s = fuzz::service();
    s.chat = chat.get();
    return s;
  }();
  return service;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view answer = fuzz::text_of(data + 1, size - 1);
  const HttpRequest request = fuzz::json_request(fuzz::take_part(answer));
  fuzz::accepts([&] {
    const openai::Call call = data[0] == 'c' ? openai::read_chat(request, fuzz::service(), openai::Manner::kVllm)
                              : data[0] == 'w'
                                  ? openai::read_chat(request, without_tools(), openai::Manner::kVllm)
                                  : openai::read_completion(request, fuzz::service(), openai::Manner::kTgi);
    fuzz::demand(!call.requests.empty(), "a call without a request");
    for (const GenerateRequest& generate : call.requests) fuzz::demand_sound(generate);
    may_be_call(answer);
    for (const ToolCall& found : find_calls(call.tools, answer)) fuzz::demand(!found.name.empty(), "a call of nothing");
  });
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// A chat template, NUL, its variables as a JSON object: parsing and rendering end, within their limits.
#include "text/chat_template.h"

#include "fuzz/fuzz.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest = fuzz::text_of(data, size);
  const std::string_view source = fuzz::take_part(rest);
  fuzz::accepts([&] {
    ChatInput input;
    input.messages = Value(List{});
    input.max_steps = 100'000;  // all of them, under sanitizers, take as long as thousands of other inputs
    if (!rest.empty()) {
      const Value context = Value::parse_json(rest);
      if (context.is_dict()) {
        for (const auto& [name, value] : context.as_dict().entries()) {
          if (name == "messages") {
            input.messages = value;
          } else if (name == "tools") {
            input.tools = value;
          } else if (name == "documents") {
            input.documents = value;
          } else if (name == "add_generation_prompt" || name == "continue_final_message") {
            if (value.is_bool())
              (name[0] == 'a' ? input.add_generation_prompt : input.continue_final_message) = value.as_bool();
          } else {
            input.variables.set(name, value);
          }
        }
      }
    }
    const auto chat = ChatTemplate::from_text(source);
    chat->takes_content_parts();
    chat->render(input);
  });
  return 0;
}

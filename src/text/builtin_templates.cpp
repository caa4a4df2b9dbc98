// SPDX-License-Identifier: Apache-2.0
// The formats are those of the models named; the templates are written for this project. Content may be a string or a
// list of parts. tests/golden/make_text.py reads the sources from here.
#include "text/builtin_templates.h"

namespace sluice {
namespace {

constexpr std::string_view kChatMl = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif -%}
{%- endmacro -%}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ text(message.content) ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
)jinja";

constexpr std::string_view kLlama2 = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = '<<SYS>>\n' ~ text(message.content) ~ '\n<</SYS>>\n\n' %}
    {%- elif message.role == 'user' %}
        {{- bos_token ~ '[INST] ' ~ ns.system ~ text(message.content) ~ ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' ~ text(message.content) ~ ' ' ~ eos_token }}
    {%- else %}
        {{- raise_exception('Unknown role ' ~ message.role ~ ', expected system, user or assistant') }}
    {%- endif %}
{%- endfor %}
)jinja";

constexpr std::string_view kLlama3 = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{{- '<|begin_of_text|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ text(message.content) ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
)jinja";

constexpr std::string_view kMistral = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif -%}
{%- endmacro -%}
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = text(message.content) ~ '\n\n' %}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' ~ ns.system ~ text(message.content) ~ ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' ~ text(message.content) ~ eos_token }}
    {%- else %}
        {{- raise_exception('Unknown role ' ~ message.role ~ ', expected system, user or assistant') }}
    {%- endif %}
{%- endfor %}
)jinja";

constexpr std::string_view kAlpaca = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- text(message.content) ~ '\n\n' }}
    {%- elif message.role == 'user' %}
        {{- '### Instruction:\n' ~ text(message.content) ~ '\n\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '### Response:\n' ~ text(message.content) ~ eos_token ~ '\n\n' }}
    {%- else %}
        {{- '### Input:\n' ~ text(message.content) ~ '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}
)jinja";

constexpr std::string_view kVicuna = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- text(message.content) ~ '\n\n' }}
    {%- elif message.role == 'user' %}
        {{- 'USER: ' ~ text(message.content) ~ '\n' }}
    {%- elif message.role == 'assistant' %}
        {{- 'ASSISTANT: ' ~ text(message.content) ~ eos_token ~ '\n' }}
    {%- else %}
        {{- raise_exception('Unknown role ' ~ message.role ~ ', expected system, user or assistant') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}
)jinja";

constexpr std::string_view kZephyr = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif -%}
{%- endmacro -%}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>\n' ~ text(message.content) ~ eos_token ~ '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
)jinja";

constexpr std::string_view kGemma = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{{- '<bos>' }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = text(message.content) ~ '\n\n' %}
    {%- else %}
        {{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' }}
        {{- ns.system ~ text(message.content) ~ '<end_of_turn>\n' }}
        {%- set ns.system = '' %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
)jinja";

constexpr std::string_view kPhi3 = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif -%}
{%- endmacro -%}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>\n' ~ text(message.content) ~ '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
)jinja";

constexpr std::string_view kFalcon = R"jinja(
{%- macro text(content) -%}
    {%- if content is string %}{{ content | trim }}{% else %}{% for part in content or [] if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif -%}
{%- endmacro -%}
{%- for message in messages %}
    {{- '' if loop.first else '\n' }}
    {{- {'system': 'System', 'user': 'User', 'assistant': 'Falcon'}.get(message.role, message.role) ~ ': ' ~ text(message.content) }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}
)jinja";

constexpr BuiltinTemplate kTemplates[] = {
    {"alpaca", kAlpaca}, {"chatml", kChatMl},   {"falcon", kFalcon}, {"gemma", kGemma},   {"llama2", kLlama2},
    {"llama3", kLlama3}, {"mistral", kMistral}, {"phi3", kPhi3},     {"vicuna", kVicuna}, {"zephyr", kZephyr}};

}  // namespace

std::span<const BuiltinTemplate> builtin_templates() { return kTemplates; }

}  // namespace sluice

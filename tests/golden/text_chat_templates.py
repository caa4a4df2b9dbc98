# SPDX-License-Identifier: Apache-2.0
"""Chat templates of our own, one for each way the field's templates are written; make_text.py renders them into chat_templates.json.

FAMILIES: name -> (source, special tokens, names of CONVERSATIONS to render). The conversations of text_templates.py are known here too.
"""
import pathlib
import re

import text_templates

_TOOLS = [
    {"type": "function", "function": {"name": "search", "description": "Looks things up.", "parameters": {"type": "object", "properties": {
        "query": {"type": "string", "description": "What to look for"}, "limit": {"type": "integer", "default": 10}, "tags": {"type": "array", "items": {"type": "string"}},
        "when": {"type": ["string", "null"], "enum": ["now", "later"]}, "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}}}, "required": ["query"]}}},
    {"type": "function", "function": {"name": "stop", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
_DOCUMENTS = [{"title": "Tides", "text": "The moon pulls the sea.\nTwice a day."}, {"title": "Wind \"N\"", "text": "It blows from the north.", "score": 0.5}]


def _m(role, content, **more):
    return dict(role=role, content=content, **more)


def _call(name, arguments, call_id):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    **text_templates.CONVERSATIONS,
    "documents": dict(messages=[_m("system", "Cite."), _m("user", "Why tides?")], documents=_DOCUMENTS),
    "all_tools": dict(messages=[_m("user", "Find it.")], tools=_TOOLS, documents=_DOCUMENTS[:1]),
    "two_calls": dict(messages=[_m("user", "Find both"), _m("assistant", None, tool_calls=[_call("search", {"query": "a", "limit": 2}, "c1"), _call("search", {"query": "b", "tags": ["x", "é"]}, "c2")]),
                                _m("tool", "first", tool_call_id="c1"), _m("tool", {"found": [1, 2.5, None]}, tool_call_id="c2"), _m("assistant", "Both found."), _m("user", "And now?")], tools=_TOOLS),
    "thinking": dict(messages=[_m("user", "2+2?"), _m("assistant", "<think>\nfour, surely\n</think>\n\n4"), _m("user", "3+3?"), _m("assistant", "6", reasoning_content="six\n"), _m("user", "ok")]),
    "no_thinking": dict(messages=[_m("user", "2+2?")], extra=dict(enable_thinking=False)),
    "images": dict(messages=[_m("system", [{"type": "text", "text": "See."}]), _m("user", [{"type": "image", "url": "a.png"}, {"type": "text", "text": " What is it? "}, {"type": "text", "text": "Now."}]),
                             _m("assistant", [{"type": "text", "text": "A sea."}])]),
    "long": dict(messages=[_m("user" if n % 2 == 0 else "assistant", f"turn {n}") for n in range(9)]),
    "stop_word": dict(messages=[_m("user", "a"), _m("assistant", "b"), _m("user", "STOP"), _m("assistant", "never shown")]),
    "mixed_roles": dict(messages=[_m("developer", "Rules."), _m("user", "a", name="Ana"), _m("assistant", "b"), _m("observer", "c"), _m("user", "d", name="Bo")]),
}
_PLAIN = ["user", "system_user", "turns", "empty_content", "parts"]
_TOOL_USE = ["user", "system_user", "tools", "tool_call", "all_tools", "two_calls"]
_BOS = dict(bos_token="<s>", eos_token="</s>")

FAMILIES = {}

# Documents and tools before the turns; titles gathered by map; a text that names all of them.
FAMILIES["grounded"] = ("""\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{%- set preamble = messages[0].content -%}{%- set turns = messages[1:] -%}{%- else -%}{%- set preamble = 'Answer from the documents.' -%}{%- set turns = messages -%}{%- endif -%}
<|SYSTEM|>{{ preamble | trim }}
{%- if documents %}

# Documents ({{ documents | length }}): {{ documents | map(attribute='title') | join('; ') }}
{% for doc in documents -%}
{{ loop.index0 }}. {{ doc['title'] }}{% if doc.score is defined %} [{{ '%.2f' | format(doc.score) }}]{% endif %}

{{ doc.text | indent(3, true) }}
{% for key, value in doc.items() if key not in ['title', 'text'] %}   {{ key }} = {{ value }}
{% endfor %}
{%- endfor %}
{%- endif %}
{%- if tools %}

# Tools
{% for tool in tools -%}
def {{ tool.function.name }}({% for name, spec in tool.function.parameters.properties.items() %}{{ name }}: {{ spec.type if spec.type is string else spec.type | join(' | ') }}{% if name not in tool.function.parameters.get('required', []) %} = {{ spec.default if spec.default is defined else 'None' }}{% endif %}{{ ', ' if not loop.last }}{% endfor %}):
    {{ tool.function.description or 'No description.' }}
{% endfor %}
{%- endif %}
{%- for message in turns %}<|{{ message.role | upper }}|>
{%- if message.content is none %}{{ message.tool_calls | map(attribute='function') | map(attribute='name') | list | tojson }}
{%- elif message.content is mapping %}{{ message.content | tojson(indent=1) }}
{%- else %}{{ message.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|ASSISTANT|>{% endif %}
""", _BOS, [*_TOOL_USE, "documents"])

# Recursive macros that write types, as the function-calling formats do.
FAMILIES["signatures"] = ("""\
{%- macro type_of(spec) -%}
    {%- if spec.type is string -%}
        {%- if spec.enum -%}{{ spec.enum | map('tojson') | join(' | ') }}
        {%- elif spec.type == 'string' -%}string
        {%- elif spec.type in ['integer', 'number'] -%}number
        {%- elif spec.type == 'array' -%}{{ type_of(spec['items']) }}[]
        {%- elif spec.type == 'object' -%}
            {%- if spec.properties -%}{ {% for key, value in spec.properties.items() %}{{ key }}: {{ type_of(value) }}{% if not loop.last %}, {% endif %}{% endfor %} }{%- else -%}object{%- endif -%}
        {%- else -%}any{%- endif -%}
    {%- elif spec.type is sequence -%}
        {%- for one in spec.type -%}{{ type_of({'type': one}) }}{{ ' | ' if not loop.last else '' }}{%- endfor -%}
    {%- else -%}any{%- endif -%}
{%- endmacro -%}
{%- macro signature(tool, indent_by=0) -%}
    {%- set f = tool.function if tool.function is defined else tool -%}
{{ ' ' * indent_by }}type {{ f.name }} = (_: {
{%- for key, value in f.parameters.properties.items() %}

{{ ' ' * indent_by }}  {% if value.description %}// {{ value.description }}
{{ ' ' * indent_by }}  {% endif %}{{ key }}{{ '?' if key not in (f.parameters.required or []) }}: {{ type_of(value) }},{% if value.default is defined %} // default: {{ value.default | tojson }}{% endif %}
{%- endfor %}

{{ ' ' * indent_by }}}) => any;
{%- endmacro -%}
{%- if tools is defined and tools is not none -%}
<|start|>developer<|message|># Tools

namespace functions {
{% for tool in tools %}
{{ signature(tool, indent_by=2) }}
{% endfor %}
} // namespace functions<|end|>
{%- endif -%}
{%- for message in messages -%}
<|start|>{{ message.role }}<|message|>
{%- if message.tool_calls -%}
    {%- for call in message.tool_calls -%}to=functions.{{ call.function.name }} {{ call.function.arguments | tojson }}<|call|>{%- endfor -%}
{%- else -%}{{ message.content if message.content is string else message.content | tojson }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
""", {}, _TOOL_USE)

# Reasoning between marks: split, strip, reversed search for the last question, a flag from the request.
FAMILIES["reasoner"] = ("""\
{%- set ns = namespace(last=-1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == 'user' and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
            {%- if call.function.arguments is string %}{{ call.function.arguments }}{% else %}{{ call.function.arguments | tojson }}{% endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""", dict(eos_token="<|im_end|>"), [*_TOOL_USE, "thinking", "no_thinking", "ends_with_assistant"])

# Alternation checked over filtered messages, tools only before the last question, ids checked for their length.
FAMILIES["instruct_v3"] = ("""\
{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set others = loop_messages | rejectattr("role", "in", ["user", "assistant", "tool"]) | map(attribute="role") | unique | list %}
{%- if others %}{{- raise_exception("Unknown roles: " + others | join(", ")) }}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function|tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id|length < 9 %}{{- raise_exception("Tool call ids have nine characters, found '" ~ call.id ~ "'") }}{%- endif %}
            {{- ', "id": "' + call.id[-9:] + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
""", _BOS, [*_TOOL_USE, "turns", "unknown_role"])

# Break, continue, else of a loop, neighbours, cycle and changed.
FAMILIES["windowed"] = ("""\
{%- for message in messages if message.role != 'system' %}
    {%- if message.content == 'STOP' %}{% break %}{% endif %}
    {%- if not message.content %}{% continue %}{% endif %}
    {%- if loop.changed(message.role) %}[{{ loop.cycle('odd', 'even') }}:{{ message.role }}]{% endif %}
    {{- ' ' ~ message.content }}
    {%- if loop.nextitem is defined and loop.nextitem.role == message.role %} /{% endif %}
    {%- if loop.previtem is defined %} ({{ loop.revindex }} left, after {{ loop.previtem.role }}){% endif %}
    {%- if loop.index == 6 %}{{ ' ...' }}{% break %}{% endif %}
{%- else %}[nothing]
{%- endfor %}
{%- for n in range(3) %}{% for k in range(3) %}{% if k == n %}{% continue %}{% endif %}{% if k > n %}{% break %}{% endif %}{{ n }}{{ k }};{% endfor %}{% endfor %}
{%- if add_generation_prompt %}[{{ 'reply' }}]{% endif %}
""", {}, ["user", "turns", "long", "stop_word", "empty_content", "wrong_order", "late_system"])

# Call blocks, caller with arguments, filter and with blocks, block set through filters, nested macros with defaults.
FAMILIES["composed"] = ("""\
{%- macro frame(name, open='<', close='>') -%}
{{ open }}{{ name }}{{ close }}{{ caller(name | length) }}{{ open }}/{{ name }}{{ close }}
{%- endmacro -%}
{%- macro turn(message, mark='#') -%}
    {%- call(size) frame(message.role, mark ~ '<') -%}
        {{ size }}:{% filter trim | replace('a', 'A') %}  {{ message.content if message.content is string else message.content | length }}  {% endfilter %}
    {%- endcall -%}
{%- endmacro -%}
{%- set header | upper | trim %}  {{ messages[0].role }} first  {% endset -%}
{{ header }}
{% with count = messages | length, roles = messages | map(attribute='role') | unique | sort -%}
{{ count }} turns of {{ roles | join('+') }}
{% endwith -%}
{% for message in messages %}
{{ turn(message) if loop.first else turn(message, mark=loop.index) }}
{% endfor %}
{%- if add_generation_prompt %}{% call(size) frame('assistant') %}{{ size }}{% endcall %}{% endif %}
""", {}, [*_PLAIN, "long"])

# The training mask's blocks, white space signs of every kind, comments and raw text.
FAMILIES["masked"] = ("""\
{# A template whose white space is left to trim_blocks and lstrip_blocks. #}
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'assistant' %}
    {%- generation -%}
    {{ message['content'] }}{{ eos_token }}
    {%- endgeneration +%}
    {% else %}
  {%+ if message['role'] == 'system' %}[{{ message['role'] }}]{% endif +%}

{{ message['content'] }} {#- nothing kept before this -#} |
    {% endif %}
{% endfor %}
{% raw %}{{ not code }} {% neither %}{% endraw %}

{%- if add_generation_prompt %}
  {{ '\\n' -}}
  GO
{% endif %}
""", _BOS, [*_PLAIN, "ends_with_assistant", "system_turns"])

# Parts of content by type, an image's place, a prefix for the first question, roles renamed.
FAMILIES["vision"] = ("""\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must take turns") }}
    {%- endif -%}
    {%- set role = {'assistant': 'model'}[message['role']] or message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
""", dict(bos_token="<bos>"), [*_PLAIN, "images", "wrong_order", "two_calls"])

# Flags in a namespace decide what an answer's end looks like; calls and their outputs in one stream.
FAMILIES["flagged"] = ("""\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}
{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|User|>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}{%- set ns.is_tool = false -%}
{%- for tool in message['tool_calls'] %}
{%- if not ns.is_first %}{%- if message['content'] is none %}{{ '<|Assistant|><|calls|><|call|>' }}{%- else %}{{ '<|Assistant|>' + message['content'] + '<|calls|><|call|>' }}{%- endif %}{%- set ns.is_first = true -%}{%- else %}{{ '\\n' + '<|call|>' }}{%- endif %}
{{- tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] | tojson + '\\n' + '```' + '<|call_end|>' }}
{%- endfor %}{{ '<|calls_end|>' + eos_token }}
{%- endif %}
{%- if message['role'] == 'assistant' and (message['tool_calls'] is not defined or message['tool_calls'] is none) %}
{%- if ns.is_tool %}{{ '<|outputs_end|>' + message['content'] + eos_token }}{%- set ns.is_tool = false -%}
{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + eos_token }}{%- endif %}
{%- endif %}
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}
{%- if ns.is_output_first %}{{ '<|outputs|><|output|>' ~ message['content'] ~ '<|output_end|>' }}{%- set ns.is_output_first = false %}{%- else %}{{ '\\n<|output|>' ~ message['content'] ~ '<|output_end|>' }}{%- endif %}
{%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{ '<|outputs_end|>' }}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|>' }}{% endif %}
""", dict(bos_token="<|begin|>", eos_token="<|end|>"), [*_TOOL_USE, "thinking", "turns"])

# The date by strftime_now, checked for its form alone; tests and filters of numbers.
FAMILIES["dated"] = ("""\
{%- set year = strftime_now('%Y') | int %}
{%- if strftime_now is callable and year > 2020 and year < 3000 %}{{ '[date of ' ~ strftime_now('%d %b %Y') | length ~ ' characters]' }}{% endif %}
{%- set date = date_string if date_string is defined else 'no date' %}
{{ date }} {{ strftime_now('100%%') }} {{ strftime_now('') | length }}
{% for message in messages %}{{ loop.index }}/{{ loop.length }} ({{ (100 * loop.index / loop.length) | round(1) }} %, {{ (100 * loop.index // loop.length) }}) {{ message.role | capitalize }}: {{ message.content | string | replace('\\n', '\\\\n') }}
{% endfor %}
{{- messages | length is divisibleby 2 }} {{ messages | length is odd }} {{ [messages | length, 2] | max }} {{ messages | map(attribute='content') | map('string') | map('length') | sum }}
{%- if add_generation_prompt %} >{% endif %}
""", {}, [*_PLAIN, "date", "long"])

# Dicts as a template's own tables: items, dictsort, groupby, get, nested literals, subscripts by expression.
FAMILIES["tables"] = ("""\
{%- set marks = {'user': {'open': '<u>', 'close': '</u>'}, 'assistant': {'open': '<a>', 'close': '</a>'}} -%}
{%- for role, group in messages | groupby('role') -%}
{{ role }}={{ group | length }}{{ ', ' if not loop.last }}
{%- endfor %}

{% for message in messages -%}
{%- set mark = marks.get(message['role'], {'open': '[' ~ message.role ~ ']', 'close': ''}) -%}
{{ mark['open'] }}{{ message['content'] }}{{ mark.close }}
{% endfor -%}
{% for key, value in messages[0] | dictsort if value is not none %}{{ key }}:{{ value | tojson }};{% endfor %}

{{ marks | tojson(sort_keys=true) }} {{ marks.keys() | list }} {{ marks['user' if true else 'assistant'].items() | list }} {{ (marks.values() | list)[-1]['open'] }}
{{ messages | map(attribute='name', default='?') | list }} {{ messages | selectattr('name') | map(attribute='name') | join('&') }} {{ [1, [2, {'three': (4, 5)}]][1][1].three[0] }}
{%- if add_generation_prompt %}{{ marks.assistant.open }}{% endif %}
""", {}, [*_PLAIN, "mixed_roles", "two_calls"])

# Text methods: strip with characters, split with limits, prefixes as tuples, title, format both ways, slices with steps.
FAMILIES["wordy"] = ("""\
{%- for message in messages %}
{%- set text = (message.content if message.content is string else 'x-y-z') %}
{{ '{} ({})'.format(message.role.title(), loop.index) }}: {{ '%-12s|%5d|%s' % (text[:10], text | length, text[::-1][:8]) }}
{{ text.strip().split(' ', 1)[0].upper() }} {{ text.split() | length }} {{ text.startswith(('H', 'W')) }} {{ text.endswith('?') }} {{ text.lstrip('HeW ').rstrip('.!?') }} {{ text.replace('o', '0', 1) }}
{{ text | wordcount }} {{ text | truncate(9) }} {{ text.splitlines() | join('/') }} {{ text.partition('a') }} {{ text.find('e') }} {{ text.count('l') }} {{ 'yes' if 'a' in text else 'no' }} {{ text.isdigit() or text.isalpha() }}
{{ text[1:-1:2] }}{{ text[-3:] }} {{ text | title | reverse }} {{ text.center(20, '*') }} {{ text | first }}{{ text | last | default('-', true) }}
{% endfor %}
{%- if add_generation_prompt %}Assistant ({{ messages | length + 1 }}):{% endif %}
""", {}, ["user", "system_user", "turns", "system_turns", "ends_with_assistant", "long"])

# Tests by name and operator, chained comparisons, undefined values, precedence, concatenation.
FAMILIES["picky"] = ("""\
{%- if messages is not iterable or messages is mapping %}{{ raise_exception('messages should be a list') }}{% endif %}
{%- set known = ['system', 'user', 'assistant', 'tool'] %}
{%- for message in messages %}
    {%- if message.role not in known %}{{ raise_exception('Role ' ~ message.role ~ ' is none of ' ~ known | join('/')) }}{% endif %}
    {%- if message.nothing is undefined and message['nothing'] is not defined and not message.nothing %}{% set sure = true %}{% endif %}
    {{- '<' ~ message.role ~ (' name=' ~ message.name if message.name is defined and message.name is string else '') ~ '>' }}
    {{- 'string' if message.content is string else 'list' if message.content is sequence and message.content is not mapping else 'dict' if message.content is mapping else 'none' if message.content is none else 'other' }}
    {{- ' ' ~ (0 <= loop.index0 < 2) ~ ' ' ~ (not loop.first and loop.last or 'x') ~ ' ' ~ (loop.index is eq 1) ~ ' ' ~ (loop.index is ge 2 and loop.index is lt 4) ~ ' ' ~ sure }}
    {{- ' ' ~ (message.content is sameas none) ~ ' ' ~ (message.tool_calls is defined) ~ ' ' ~ (1 + 2 * 3 - 4 // 3 % 2 ** 2) ~ ' ' ~ -loop.index ~ ' ' ~ (loop.index / 2) }}
    {{- '</' ~ message.role ~ '>\\n' }}
{%- endfor %}
{%- if tools is not none %}{{ tools | length ~ ' tools, first ' ~ tools[0].function.name }}{% endif %}
{%- if add_generation_prompt and (tools is none or tools | length > 0) %}<assistant>{% endif %}
""", {}, [*_PLAIN, "two_calls", "mixed_roles", "unknown_role", "tools"])

# Lists built by adding, batches, slices of messages, unique and sorted roles, items of a filter in a set.
FAMILIES["gathered"] = ("""\
{%- set ns = namespace(pairs=[], system=[]) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = ns.system + [message.content] %}
    {%- else %}{% set ns.pairs = ns.pairs + [[message.role[0], message.content]] %}{% endif %}
{%- endfor %}
{{- (ns.system | join('\\n')) or 'no system' }}
{% for row in ns.pairs | batch(2) %}
{{ loop.index }}. {% for kind, text in row %}{{ kind }}={{ text | tojson }}{{ ' / ' if not loop.last }}{% endfor %}

{% endfor %}
{%- set roles = messages | map(attribute='role') | unique | sort(reverse=true) | list %}
{{ messages | slice(3) | map('length') | list }} {{ messages | map(attribute='role') | slice(2, '-') | map('join', '+') | list }} {{ 'a b c d e f' | truncate(6, leeway=0) }} {{ 'abcdefghij' | truncate(5, true, '~', 0) }}
{{ roles }} {{ roles | map('capitalize') | join(', ') }} {{ roles | select('in', ['user']) | list }} {{ roles | reject('equalto', 'user') | list }} {{ (ns.pairs | last)[1] if ns.pairs else '' }} {{ ns.pairs[-2:] | length }} {{ ns.pairs[::-1] | map('first') | join }}
{%- if add_generation_prompt %} a={% endif %}
""", {}, [*_PLAIN, "long", "late_system", "assistant_first"])

# A tool's schema as JSON in three layouts, arguments that are text already, an extra variable of the request.
FAMILIES["json_tools"] = ("""\
{%- if tools %}
{{- '<tools>\\n' }}
{%- for tool in tools %}
{{- tool | tojson(indent=2) }}
{{ tool.function.parameters | tojson(separators=(',', ':')) }}
{{ (tool.function | tojson)[:20] }} {{ tool.function.description | tojson }}
{% endfor %}
{{- '</tools>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<' ~ message.role ~ '>' }}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
{%- endfor %}
{%- elif message.content is string %}{{ message.content }}
{%- else %}{{ message.content | tojson }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' ~ (prefix | default('')) }}{% endif %}
""", {}, [*_TOOL_USE, "parts"])

# A block set aside, roles in turn, separators that skip the first, arguments as pairs, flags that are true and not only truthy.
FAMILIES["mapped"] = ("""\
{%- set names = dict(user='Human', assistant='Bot') %}
{%- set turn, comma = cycler('odd', 'even'), joiner(', ') %}
{%- set head -%}
    {% for message in messages %}{{ comma() }}{{ (message.role | lower)[:4] }}{% endfor %}
{%- endset %}
{{- head | safe | upper ~ ' ' ~ head | length ~ '\\n' }}
{%- for message in messages %}
    {{- turn.next() ~ ' ' ~ names.get(message.role, message.role.lower()) ~ ': ' ~ (message.content if message.content is string else '') ~ '\\n' }}
    {%- for call in message.tool_calls or [] %}
        {{- call.function.name ~ '(' }}{% for key, value in call.function.arguments | items %}{{ key ~ '=' ~ value | tojson ~ (', ' if not loop.last) }}{% endfor %}{{ ')\\n' }}
    {%- endfor %}
{%- endfor %}
{{- turn.current if add_generation_prompt is true else 'none' if add_generation_prompt is false }}
""", {}, [*_PLAIN, "two_calls"])


def builtin():
    """The templates that --chat-template knows by name, from the source that holds them."""
    source = (pathlib.Path(__file__).resolve().parents[2] / "src" / "text" / "builtin_templates.cpp").read_text()
    texts = dict(re.findall(r'k(\w+) = R"jinja\(\n(.*?)\)jinja"', source, re.S))
    names = re.findall(r'\{"(\w+)",\s*k(\w+)\}', source)
    assert len(names) == len(texts) >= 10, (names, texts.keys())
    return {name: texts[constant] for name, constant in names}

# SPDX-License-Identifier: Apache-2.0
"""Templates and conversations that make_text.py renders: the language itself (ENGINE) and chat templates in each family's form (CHAT)."""

# (name, template, context)
_EXPR = {
    "true_division": "7/2", "true_division_whole": "6/2", "floor_division": "-7//2", "floor_division_of_negative": "(-7)//2", "modulo": "-7%3", "modulo_of_negative": "(-7)%3",
    "bool_equals_int": "1==true", "int_equals_float": "1==1.0", "big_float": "1e20", "float_repr": "0.1+0.2", "round_float": "2.5|round", "round_int": "2|round", "list_repr": "[true,none,'x']",
    "quote_repr": "[\"it's\"]", "tilde": "'a' ~ 1 ~ none", "add_str_int": "'a'+1", "repeat": "'a'*3", "default_of_none": "none|default('d')", "default_true": "none|default('d', true)",
    "default_undefined": "nope|default('d')", "int_of_text": "'3.7'|int", "int_of_word": "'x'|int", "int_default": "'x'|int(7)", "first_of_empty": "[]|first", "capitalize": "'hELLO'|capitalize", "indent": "'a\\nb\\n\\nc'|indent(2)",
    "indent_first": "'a\\nb'|indent(4, true)", "sort": "['b','A']|sort", "adjacent": "'a' 'b' \"c\"", "range_repr": "range(3)", "chained": "1<2<3", "chained_false": "1<3<2", "length_code_points": "'né😀'|length",
    "power": "2**10", "unary": "-3 + 5", "precedence": "2 + 3 * 4 - 1", "paren": "(2 + 3) * 4", "float_int": "3.0", "int_float_sum": "1 + 2.0", "not_in": "'x' not in ['a','x']", "in_string": "'ell' in 'hello'",
    "and_or": "0 or 'x' and 'y'", "not": "not ''", "inline_if": "'a' if 1 > 2 else 'b'", "inline_if_no_else": "'a' if false", "dict_repr": "{'a': 1, 'b': [1.5, false]}", "dict_sub": "{'a': 1}['a']",
    "dict_dot": "{'a': 1}.a", "dict_get": "{'a': 1}.get('b', 2)", "dict_missing": "{'a': 1}.b", "missing_of_missing": "{'a': 1}.b.c", "slice_head": "[1,2,3,4][:2]", "slice_tail": "[1,2,3,4][1:]", "slice_last": "[1,2,3,4][:-1]",
    "reverse": "[1,2,3][::-1]", "string_index": "'abc'[1]", "string_negative": "'abc'[-1]", "string_slice": "'abcdef'[1:4]", "string_reverse": "'abc'[::-1]", "index_out": "'abc'[9]", "tuple": "(1, 'a')", "tuple_one": "(1,)",
    "empty_tuple": "()", "trim": "'  a b '|trim", "upper": "'aß'|upper", "lower": "'ÀB'|lower", "title": "'hello wORLD'|title", "join": "[1,'a',none]|join('-')", "join_plain": "['a','b']|join", "last": "[1,2]|last", "length": "{'a':1}|length",
    "string_filter": "[1]|string", "list_filter": "'abc'|list", "items": "{'a':1,'b':2}|items|list", "dict_items": "{'a':1}.items()|list", "keys": "{'a':1,'b':2}.keys()|list", "replace": "'aXbX'|replace('X','-')",
    "replace_method": "'aXbX'.replace('X','-')", "split": "'a b  c'.split()", "split_sep": "'a,b,c'.split(',')", "split_max": "'a,b,c'.split(',', 1)", "strip": "' x '.strip()", "lstrip_chars": "'xxabc'.lstrip('x')", "rstrip_method": "'abc\\n\\n'.rstrip('\\n')",
    "startswith": "'abc'.startswith('ab')", "startswith_tuple": "'abc'.startswith(('x','a'))", "endswith": "'abc'.endswith('bc')", "string_upper": "'abc'.upper()", "string_title": "'the end'.title()", "count_method": "'banana'.count('an')",
    "find_method": "'banana'.find('n')", "format_percent": "'%s-%d' % ('a', 3)", "format_filter": "'%s!'|format('x')", "format_method": "'{} {}'.format('a', 1)", "selectattr": "[{'a':1},{'a':2}]|selectattr('a','equalto',2)|list",
    "rejectattr": "[{'a':1},{'b':2}]|rejectattr('a','defined')|list", "map_attribute": "[{'a':1},{'a':2}]|map(attribute='a')|join(',')", "map_filter": "['a','b']|map('upper')|list", "select": "[1,0,2]|select|list", "reject": "[1,none]|reject('none')|list",
    "unique": "[1,2,1]|unique|list", "min_max": "[[3,1,2]|min, [3,1,2]|max]", "sum": "[1,2,3]|sum", "abs": "-3|abs", "float_filter": "'1.5'|float", "bool_repr": "true", "none_repr": "none", "upper_literals": "[True, False, None]",
    "tojson": "{'b': 1, 'a': [true, none, 1.5, 'é\"\\n']}|tojson", "tojson_indent": "{'b': 1, 'a': [1, {}], 'c': []}|tojson(indent=2)", "tojson_html": "'<a>&\\'b\\''|tojson", "tojson_float": "[1.0, 1e20, 0.1, 1e-7]|tojson", "tojson_sort": "{'b':1,'a':2}|tojson(sort_keys=true)", "tojson_separators": "{'b':[1,2]}|tojson(separators=(',',':'))",
    "is_defined": "x is defined", "is_not_defined": "x is not defined", "is_none": "none is none", "is_string": "'a' is string", "is_mapping": "{} is mapping", "is_sequence": "'a' is sequence", "is_iterable": "[] is iterable", "is_number": "1 is number", "bool_is_number": "true is number",
    "is_integer": "1 is integer", "bool_is_integer": "true is integer", "is_float": "1.0 is float", "is_true": "true is true", "one_is_true": "1 is true", "is_boolean": "true is boolean", "is_odd": "3 is odd", "is_even": "3 is even", "divisibleby": "9 is divisibleby 3", "is_in": "1 is in [1,2]",
    "is_eq": "1 is eq 1", "undefined_prints": "nope", "undefined_falsy": "'t' if nope else 'f'", "undefined_is_none": "nope is none", "undefined_eq_none": "nope == none", "undefined_in": "1 in nope", "undefined_attribute": "nope.x", "undefined_plus": "nope + 'a'", "undefined_length": "nope|length",
    "undefined_call": "nope()", "compare_str_int": "'a' < 1", "zero_division": "1/0", "list_concat": "[1] + [2]", "list_plus_string": "[1] + 'a'", "nested_list": "[[1,2],[3]][0][1]", "escape": "'tab\\tnew\\\\n'", "unicode_escape": "'\\u00e9'", "raw_unicode": "'héé'", "string_cmp": "'a' < 'b'",
    "list_eq": "[1,2] == [1,2]", "dict_eq": "{'a':1} == {'a':1}", "float_add": "1.5 + 1", "large_int": "9007199254740993 + 0", "unknown_filter": "'a'|nope", "unknown_test": "'a' is nope", "private": "''.__class__", "safe": "'<b>'|safe", "escape_filter": "'<b>'|e", "wordcount": "'a b c'|wordcount",
    "batch": "[1,2,3]|batch(2)|list", "dictsort": "{'b':1,'a':2}|dictsort", "round_digits": "3.14159|round(2)", "attr": "{'a':1}|attr('a')", "groupby_len": "[{'a':1},{'a':1}]|groupby('a')|length", "trim_chars": "'xxaxx'|trim('x')", "concat_number": "'a' ~ 1.0 ~ true",
    "string_multiline": "'a\nb'", "number_underscore": "1_000", "is_callable": "range is callable", "range_list": "range(2, 8, 3)|list", "dict_function": "dict(a=1, b='x')", "lower_is": "'a' is lower", "dict_in": "'a' in {'a': 1}", "isdigit": "'12'.isdigit()", "splitlines": "'a\\nb'.splitlines()",
}
ENGINE = [(name, "{{ " + expr + " }}", {}) for name, expr in _EXPR.items()] + [
    ("trim_and_lstrip", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", {}),
    ("crlf", "x\r\n\n", {}),
    ("final_newlines", "x\n\n\n", {}),
    ("variable_newline_kept", "{{ 1 }}\n{{ 2 }}\n", {}),
    ("minus_both", "a  \n {{- 1 -}} \n b", {}),
    ("minus_block", "a \n\n {%- if true -%} \n b \n {%- endif -%} \n c", {}),
    ("plus_block", "a\n  {%+ if true %}\nb\n  {%+ endif +%}\nc", {}),
    ("comment", "a\n  {# note #}\nb{# x #}c\n{#- y -#}\n d", {}),
    ("block_after_text_keeps_spaces", "a  {% if true %}  b{% endif %}  c", {}),
    ("raw", "{% raw %}{{ x }}{% endraw %}", {}),
    ("set_in_for_if", "{% set x = 0 %}{% for i in [1,2] %}{% if i == 1 %}{% set x = 5 %}{% endif %}{{ x }}{% endfor %}{{ x }}", {}),
    ("set_in_if", "{% if true %}{% set x = 3 %}{% endif %}{{ x }}", {}),
    ("namespace", "{% set ns = namespace(n=0, s='') %}{% for i in [1,2,3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }}", {}),
    ("loop_variables", "{% for x in ['a','b','c'] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}", {}),
    ("loop_neighbours", "{% for x in [1,2,3] %}{{ loop.previtem if loop.previtem is defined else '-' }}{{ loop.nextitem|default('-') }} {% endfor %}", {}),
    ("loop_cycle", "{% for x in [1,2,3] %}{{ loop.cycle('a','b') }}{% endfor %}", {}),
    ("loop_changed", "{% for x in [1,1,2] %}{{ loop.changed(x) }} {% endfor %}", {}),
    ("for_else", "{% for x in [] %}x{% else %}none{% endfor %}", {}),
    ("for_filter", "{% for x in [1,2,3,4] if x is odd %}{{ x }}/{{ loop.length }} {% endfor %}", {}),
    ("for_unpack", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", {"d": {"z": 1, "a": "x"}}),
    ("for_dict", "{% for k in d %}{{ k }}{% endfor %}", {"d": {"z": 1, "a": 2}}),
    ("for_string", "{% for c in 'né😀' %}{{ c }}.{% endfor %}", {}),
    ("for_undefined", "[{% for x in nope %}{{ x }}{% endfor %}]", {}),
    ("break_continue", "{% for x in range(6) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}", {}),
    ("nested_loops", "{% for x in [1,2] %}{% for y in 'ab' %}{{ x }}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", {}),
    ("recursive_scope", "{% for x in [1] %}{% set y = x %}{% endfor %}[{{ y }}]", {}),
    ("macro", "{% macro f(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, c=2) }}{{ f('x', 'y', 'z') }}", {}),
    ("macro_missing", "{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f() }}", {}),
    ("macro_too_many", "{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f(1, 2) }}", {}),
    ("macro_caller", "{% macro f(a) %}<{{ caller() }}{{ a }}>{% endmacro %}{% call f(1) %}in{% endcall %}", {}),
    ("macro_sees_globals", "{% set g = 'G' %}{% macro f() %}{{ g }}{% endmacro %}{{ f() }}", {}),
    ("macro_kwargs", "{% macro f() %}{{ varargs|list }}{{ kwargs }}{% endmacro %}{{ f(1, 2, k=3) }}", {}),
    ("macro_recursive", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", {}),
    ("block_set", "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]", {}),
    ("block_set_filter", "{% set x | upper %}abc{% endset %}{{ x }}", {}),
    ("filter_block", "{% filter upper %}abc{{ 'd' }}{% endfilter %}", {}),
    ("with", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}[{{ a }}]", {}),
    ("set_tuple", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", {}),
    ("elif", "{% if x == 1 %}one{% elif x == 2 %}two{% else %}many{% endif %}", {"x": 2}),
    ("generation", "a{% generation %}b{{ 1 }}\n{% endgeneration %}c", {}),
    ("raise", "{{ raise_exception('stop here') }}", {}),
    ("raise_not_reached", "{% if false %}{{ raise_exception('no') }}{% endif %}ok", {}),
    ("items_attribute", "{{ d.items is string }} {{ d['items'] }}", {"d": {"items": "x"}}),
    ("numbers", "{{ a }} {{ b }} {{ c }} {{ d }} {{ e }}", {"a": 1, "b": 1.0, "c": -0.5, "d": 1234567890123456789, "e": 1e-7}),
    ("objects", "{{ a }}|{{ b }}|{{ c }}", {"a": [1, "x", None, True, 1.5], "b": {"k": {"n": []}}, "c": "it's \"q\"\n"}),
    ("repr_escapes", "{{ a }}", {"a": ["tab\t", "nl\n", "q'", "q\"", "both'\"", "back\\", "é", "\x00", "\u200b", "😀"]}),
    ("tojson_context", "{{ a|tojson }}\n{{ a|tojson(indent=4) }}", {"a": {"z": [1, 2.0, "é<>&'"], "a": None, "e": {}, "l": []}}),
    ("syntax_error", "{% if %}", {}), ("unclosed", "{{ 1 ", {}), ("unknown_tag", "{% nope %}", {}), ("unclosed_for", "{% for x in [1] %}", {}), ("end_mismatch", "{% if true %}{% endfor %}", {}),
    ("sandbox_append", "{% set l = [] %}{{ l.append(1) }}{{ l }}", {}),
    ("joiner", "{% set j = joiner(', ') %}{% for x in 'abc' %}{{ j() }}{{ x }}{% endfor %}", {}),
    ("cycler", "{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}", {}),
    ("empty", "", {}), ("only_text", "a{b}c % # {", {}), ("nested_braces", "{{ {'a': {'b': 1}} }}", {}), ("line_like", "# not a line statement\n## nor comment\n", {}),
]
PINNED = {
    "true_division": "3.5", "true_division_whole": "3.0", "floor_division": "-4", "modulo_of_negative": "2", "bool_equals_int": "True", "big_float": "1e+20", "float_repr": "0.30000000000000004", "round_float": "2.0",
    "round_int": "2", "list_repr": "[True, None, 'x']", "tilde": "a1None", "repeat": "aaa", "default_of_none": "None", "int_of_text": "3", "int_of_word": "0", "first_of_empty": "", "capitalize": "Hello",
    "range_repr": "range(0, 3)", "trim_and_lstrip": "a\n  b\nc", "crlf": "x\n", "length_code_points": "3", "chained": "True",
}

_LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set turns = messages %}{% set system = false %}{% endif %}\
{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

_LLAMA3 = """\
{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}\
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_LLAMA31 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message goes first, whether given or not. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Functions you may call, one JSON object each:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Tools go with the first user message. #}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("No user message to put the tools into") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Answer with a JSON call of one of these functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("Only one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_CHATML = """\
{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("User and assistant must take turns, beginning with the user") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" and message.content %}
        {{- " " + message["content"] + eos_token }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + '}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Unknown role: " + message["role"]) }}
    {%- endif %}
{%- endfor %}
"""

_ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

_QWEN25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a careful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nThe functions, between <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a careful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Content given as parts, a macro, a filter loop, block set and a generation block.
_PARTS = """\
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- else -%}
        {%- for part in content if part.type == 'text' -%}
            {{- part['text'] | trim }}{% if not loop.last %}{{ ' ' }}{% endif %}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{ bos_token }}
{%- for message in messages %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {%- if role == 'model' %}
{% generation %}<turn>model
{{ text(message.content) }}</turn>
{% endgeneration %}
    {%- else %}
        {{- '<turn>' ~ role ~ '\\n' ~ text(message.content) ~ '</turn>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{%- endif %}
"""

_BOS = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
CHAT = {
    "llama2": (_LLAMA2, _BOS),
    "llama3": (_LLAMA3, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
    "llama31": (_LLAMA31, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
    "chatml": (_CHATML, dict(eos_token="<|im_end|>")),
    "mistral": (_MISTRAL, _BOS),
    "zephyr": (_ZEPHYR, _BOS),
    "qwen25": (_QWEN25, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")),
    "parts": (_PARTS, _BOS),
}

_TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city, <now> & \"here\".", "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "Soma é fácil", "parameters": {"type": "object", "properties": {}}}},
]


def _m(role, content, **more):
    return dict(role=role, content=content, **more)


CONVERSATIONS = {
    "user": dict(messages=[_m("user", "Hello")]),
    "system_user": dict(messages=[_m("system", "Be brief."), _m("user", "What is 2 + 2?")]),
    "turns": dict(messages=[_m("user", "Hi"), _m("assistant", "Hello! How are you?"), _m("user", "Fine."), _m("assistant", "Good."), _m("user", "Bye")]),
    "system_turns": dict(messages=[_m("system", "  Spaces around.\n"), _m("user", " a\n\nb "), _m("assistant", "\nc\td \n"), _m("user", "Olá, você! 😀 <b>&\"'</b> {{ x }} {% y %}")]),
    "ends_with_assistant": dict(messages=[_m("user", "Count"), _m("assistant", "1 2 3")]),
    "empty_content": dict(messages=[_m("user", "")]),
    "wrong_order": dict(messages=[_m("user", "a"), _m("user", "b")]),
    "assistant_first": dict(messages=[_m("assistant", "a"), _m("user", "b")]),
    "late_system": dict(messages=[_m("user", "a"), _m("assistant", "b"), _m("system", "c"), _m("user", "d")]),
    "unknown_role": dict(messages=[_m("user", "a"), _m("critic", "b")]),
    "parts": dict(messages=[_m("user", [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}])]),
    "tools": dict(messages=[_m("system", "Use tools."), _m("user", "Weather in São Paulo?")], tools=_TOOLS),
    "tool_call": dict(messages=[_m("user", "Weather?"), _m("assistant", "", tool_calls=[{"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "São Paulo", "days": 2}}}]),
                                _m("tool", "{\"temp\": 21.5}", name="get_weather", tool_call_id="abc123def"), _m("assistant", "It is 21.5 degrees."), _m("user", "Thanks")], tools=_TOOLS[:1]),
    "date": dict(messages=[_m("user", "Which day?")], extra=dict(date_string="01 Jan 2026", tools_in_user_message=False)),
}

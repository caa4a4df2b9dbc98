# SPDX-License-Identifier: Apache-2.0
"""Answers held to a form, asked for as each client does it: what comes must fit, whatever the model."""

import json
import re
from typing import Literal

import jsonschema
import openai
import pydantic

from checks import check, refused

PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                                           "pets": {"type": "array", "items": {"enum": ["cat", "dog", None]}, "maxItems": 3}},
          "required": ["name", "age", "pets"], "additionalProperties": False}
MESSAGES = [{"role": "user", "content": "Who are you?"}]


class Step(pydantic.BaseModel):
    kind: Literal["add", "drop"]
    amount: int


class Plan(pydantic.BaseModel):
    title: str = pydantic.Field(max_length=10)
    steps: list[Step] = pydantic.Field(max_length=2)


def fits(text, schema=PERSON):
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
        return True
    except (ValueError, jsonschema.ValidationError):
        return False


def run_openai(oa, model):
    def ask(**fields):
        return oa.chat.completions.create(model=model, messages=MESSAGES, max_tokens=200, temperature=1.0, seed=4, **fields)

    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    reply = ask(response_format=form).choices[0]
    check("openai: response_format json_schema", fits(reply.message.content) and reply.finish_reason == "stop", reply)
    streamed = "".join(c.choices[0].delta.content or "" for c in ask(response_format=form, stream=True) if c.choices)
    check("openai: response_format streamed equals whole", streamed == reply.message.content, streamed)
    reply = ask(response_format={"type": "json_object"}).choices[0]
    check("openai: response_format json_object", fits(reply.message.content, {"type": "object"}), reply)
    plan = oa.chat.completions.parse(model=model, messages=MESSAGES, max_tokens=200, temperature=1.0, response_format=Plan)
    check("openai: chat.completions.parse into a class", isinstance(plan.choices[0].message.parsed, Plan), plan)
    for field, value, pattern in (("guided_regex", "[a-f]{3}-\\d{2}", "[a-f]{3}-[0-9]{2}"), ("guided_choice", ["yes", "no"], "yes|no"),
                                  ("guided_grammar", 'root ::= "(" root? ")" | "x"', "\\(*x?\\)*")):
        said = ask(extra_body={field: value}).choices[0].message.content
        check(f"openai: {field}", re.fullmatch(pattern, said), said)
    said = oa.completions.create(model=model, prompt="Who?", max_tokens=200, extra_body={"guided_json": PERSON}).choices[0].text
    check("openai: guided_json of a completion", fits(said), said)
    function = {"type": "function", "function": {"name": "register", "description": "Registers a person.", "parameters": PERSON}}
    other = {"type": "function", "function": {"name": "leave", "parameters": {"type": "object", "properties": {}}}}
    for choice, names in (("required", {"register", "leave"}), ({"type": "function", "function": {"name": "register"}}, {"register"})):
        calls = ask(tools=[function, other], tool_choice=choice).choices[0].message.tool_calls or []
        check(f"openai: tool_choice {choice if isinstance(choice, str) else 'of a name'}",
              calls and all(c.function.name in names and fits(c.function.arguments, PERSON if c.function.name == "register" else {"type": "object"})
                            for c in calls), calls)
    error = refused("openai: a keyword that no grammar has is refused", openai.UnprocessableEntityError,
                    lambda: ask(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}))
    check("openai: the refusal names the keyword", error is not None and "uniqueItems" in str(error), error)


def run_tgi(hub, tg):
    said = hub.text_generation("Who?", max_new_tokens=200, do_sample=True, grammar={"type": "json", "value": PERSON}, return_full_text=False)
    check("hub: text_generation with a JSON grammar", fits(said), said)
    said = hub.chat_completion(MESSAGES, max_tokens=200, response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}})
    check("hub: chat_completion with response_format", fits(said.choices[0].message.content), said)
    said = tg.generate("Who?", max_new_tokens=40, do_sample=True, grammar={"type": "regex", "value": "(ab|cd){2,5}"}).generated_text
    check("text_generation: regex grammar", re.fullmatch("(ab|cd){2,5}", said), said)


def run_ollama(client, model):
    options = {"temperature": 1.0, "num_predict": 200}
    said = client.chat(model=model, messages=MESSAGES, format=PERSON, options=options).message.content
    check("ollama: format with a schema", fits(said), said)
    said = client.generate(model=model, prompt="Who?", format="json", options=options).response
    check("ollama: format json", fits(said, {"type": "object"}), said)
    said = client.chat(model=model, messages=MESSAGES, format=Plan.model_json_schema(), options=options).message.content
    check("ollama: format of a class", isinstance(Plan.model_validate_json(said), Plan), said)


def run_langchain(chat):
    check("langchain: with_structured_output", isinstance(chat.with_structured_output(Plan, method="json_schema").invoke("Plan!"), Plan))

# SPDX-License-Identifier: Apache-2.0
"""The original clients, unmodified, against a server. Usage: clients_test.py ENDPOINT_RECORD"""

import asyncio
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request

import huggingface_hub
import openai
import text_generation
from text_generation.errors import ValidationError

import constrained
import keyless
import watermark
from checks import check, finish, refused

record = json.loads(pathlib.Path(sys.argv[1]).read_text())
url = f"http://127.0.0.1:{record['port']}"
key = pathlib.Path(record["key_file"]).read_text().strip()
bearer = {"Authorization": f"Bearer {key}"}
oa = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=600)
messages = [{"role": "user", "content": "What is the capital of France?"}]

# --- openai
served = oa.models.list().data[0]
check("openai: models", bool(served.id) and served.object == "model", served)
has_chat = True
try:
    reply = oa.chat.completions.create(model=served.id, messages=messages, max_tokens=12, temperature=0)
except openai.BadRequestError as e:
    has_chat = "chat template" not in str(e)
    check("openai: a model without chat template says so", not has_chat, e)
if has_chat:
    text = reply.choices[0].message.content
    check("openai: chat", reply.object == "chat.completion" and reply.choices[0].finish_reason in ("stop", "length"), reply)
    check("openai: usage", reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens, reply.usage)
    pieces, usage = [], None
    with oa.chat.completions.create(model=served.id, messages=messages, max_tokens=12, temperature=0, stream=True,
                                    stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            pieces += [c.delta.content or "" for c in chunk.choices]
    check("openai: chat streamed equals chat", "".join(pieces) == text, (pieces, text))
    check("openai: streamed usage", usage is not None and usage.completion_tokens == reply.usage.completion_tokens, usage)
    many = oa.chat.completions.create(model=served.id, messages=messages, max_tokens=4, n=3, seed=5, temperature=1.0)
    again = oa.chat.completions.create(model=served.id, messages=messages, max_tokens=4, n=3, seed=5, temperature=1.0)
    check("openai: n choices", [c.index for c in many.choices] == [0, 1, 2], many)
    check("openai: a seed repeats", [c.message.content for c in many.choices] == [c.message.content for c in again.choices])
    lp = oa.chat.completions.create(model=served.id, messages=messages, max_tokens=3, logprobs=True, top_logprobs=2)
    content = lp.choices[0].logprobs.content
    check("openai: logprobs", len(content) == lp.usage.completion_tokens and len(content[0].top_logprobs) == 2, content)
    check("openai: logprobs are probabilities", all(t.logprob <= 1e-6 for t in content), content)

    async def together():
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        calls = [client.chat.completions.create(model="", messages=messages, max_tokens=12, temperature=0) for _ in range(8)]
        return [r.choices[0].message.content for r in await asyncio.gather(*calls)]

    check("openai: eight at once agree", set(asyncio.run(together())) == {text})

done = oa.completions.create(model=served.id, prompt="The capital of France", max_tokens=6, temperature=0)
check("openai: completion", done.object == "text_completion" and done.usage.completion_tokens <= 6, done)
echo = oa.completions.create(model=served.id, prompt="one two", max_tokens=2, temperature=0, echo=True, logprobs=1)
check("openai: echo", echo.choices[0].text.startswith("one two"), echo)
check("openai: echo has logprobs of the prompt", echo.choices[0].logprobs.token_logprobs[0] is None, echo)
scored = oa.completions.create(model=served.id, prompt="one two", max_tokens=1, temperature=0, echo=True, logprobs=1,
                               extra_body={"prompt_logprobs": 2, "return_tokens_as_token_ids": True}).choices[0]
rows, ids = scored.prompt_logprobs, [t.removeprefix("token_id:") for t in scored.logprobs.tokens]
check("openai: prompt_logprobs", rows[0] is None and [next(iter(r)) for r in rows[1:]] == ids[1:len(rows)] and all(
    1 <= len(r) <= 3 and {"logprob", "rank", "decoded_token"} == set(v) and v["rank"] >= 1 for r in rows[1:]
    for v in r.values()), rows)
check("openai: prompt_logprobs equal those of echo", [r[i]["logprob"] for r, i in zip(rows[1:], ids[1:])] ==
      scored.logprobs.token_logprobs[1:len(rows)] == echo.choices[0].logprobs.token_logprobs[1:len(rows)], scored)
check("openai: tokens as token ids", all(i.isdigit() for i in ids), ids)
asked = dict(model=served.id, prompt="one two", max_tokens=4, temperature=0, extra_body={"return_token_ids": True})
told = oa.completions.create(**asked).choices[0]
parts = [c.choices[0] for c in oa.completions.create(**asked, stream=True) if c.choices]
check("openai: return_token_ids, streamed equals whole", len(told.token_ids) > 0 and told.prompt_token_ids ==
      parts[0].prompt_token_ids and [i for c in parts for i in c.token_ids] == told.token_ids, (told, parts))
two = oa.completions.create(model=served.id, prompt=["a b", "c d"], max_tokens=2, temperature=0)
check("openai: two prompts", [c.index for c in two.choices] == [0, 1], two)
parts = [c.choices[0].text for c in oa.completions.create(model=served.id, prompt="The capital of France", max_tokens=6,
                                                          temperature=0, stream=True) if c.choices]
check("openai: completion streamed equals completion", "".join(parts) == done.choices[0].text, parts)
stop = oa.completions.create(model=served.id, prompt="The capital of France", max_tokens=6, temperature=0,
                             stop=done.choices[0].text[:1] or "x")
check("openai: stop", stop.choices[0].text == "" and stop.choices[0].finish_reason == "stop", stop)
refused("openai: unknown model is 404", openai.NotFoundError,
        lambda: oa.completions.create(model="gpt-4", prompt="a"))
error = refused("openai: a field that is not offered is refused", openai.BadRequestError,
                lambda: oa.completions.create(model=served.id, prompt="a", suffix="b"))
check("openai: the refusal names the field", error is not None and error.param == "suffix", error)
check("openai: models.retrieve", oa.models.retrieve(served.id).id == served.id)
refused("openai: embeddings are refused", openai.BadRequestError, lambda: oa.embeddings.create(model=served.id, input="a"))
if has_chat:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    offered = oa.chat.completions.create(model=served.id, messages=messages, max_tokens=12, temperature=0, tools=[weather])
    check("openai: tools are offered to the model", offered.usage.prompt_tokens > reply.usage.prompt_tokens, offered)
refused("openai: wrong key is 401", openai.AuthenticationError,
        lambda: openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list())

# --- huggingface_hub
hub = huggingface_hub.InferenceClient(url, provider="hf-inference", token=key)
info = hub.get_endpoint_info()
check("hub: info", info["model_id"] == served.id and info["max_input_tokens"] == info["max_input_length"], info)
check("hub: health", hub.health_check())
tgi = hub.text_generation("The capital of France", max_new_tokens=6, return_full_text=False)
check("hub: text_generation", isinstance(tgi, str), tgi)
full = hub.text_generation("The capital of France", max_new_tokens=6)
check("hub: a local model gives the full text by default", full == "The capital of France" + tgi, full)
details = hub.text_generation("The capital of France", max_new_tokens=6, details=True, decoder_input_details=True,
                              return_full_text=False)
check("hub: details", details.details.generated_tokens == len(details.details.tokens) and len(details.details.prefill) > 1,
      details)
tokens = list(hub.text_generation("The capital of France", max_new_tokens=6, stream=True, details=True, return_full_text=False))
check("hub: stream", tokens[-1].generated_text == tgi and tokens[-1].details.generated_tokens == len(tokens), tokens[-1])
refused("hub: validation error", huggingface_hub.errors.ValidationError,
        lambda: hub.text_generation("a", temperature=-1.0, do_sample=True))
if has_chat:
    chat = hub.chat_completion(messages, max_tokens=12, temperature=0.0)
    check("hub: chat_completion", chat.choices[0].message.content == text, chat)
    streamed = [c.choices[0].delta.content or "" for c in hub.chat_completion(messages, max_tokens=12, temperature=0.0, stream=True)
                if c.choices]
    check("hub: chat_completion streamed", "".join(streamed) == text, streamed)

# --- text_generation
tg = text_generation.Client(url, headers=bearer, timeout=600)
one = tg.generate("The capital of France", max_new_tokens=6)
check("text_generation: generate", one.generated_text == tgi and one.details.generated_tokens >= 1, one)
best = tg.generate("The capital of France", max_new_tokens=3, do_sample=True, best_of=2)
check("text_generation: best_of", len(best.details.best_of_sequences) == 1, best)
stream = list(tg.generate_stream("The capital of France", max_new_tokens=6))
check("text_generation: stream", stream[-1].generated_text == tgi and len(stream) == one.details.generated_tokens, stream[-1])
check("text_generation: stop keeps its text",
      not tgi or tg.generate("The capital of France", max_new_tokens=6, stop_sequences=[tgi[:1]]).generated_text.endswith(tgi[:1]))
refused("text_generation: validation error", ValidationError, lambda: tg.generate("a" * 10, max_new_tokens=1 << 30))
if has_chat:
    chat = tg.chat(messages=[{"role": "user", "content": messages[0]["content"]}], max_tokens=12, temperature=0.0)
    check("text_generation: chat", chat.choices[0].message.content == text, chat)


async def generate_async():
    return await text_generation.AsyncClient(url, headers=bearer, timeout=600).generate("The capital of France", max_new_tokens=6)


check("text_generation: async", asyncio.run(generate_async()).generated_text == tgi)

if has_chat:
    constrained.run_openai(oa, served.id)
    constrained.run_tgi(hub, tg)
    watermark.run(tg, os.environ["SLUICE_TEST_MODEL"])
    keyless.run(record, served.id)

# --- plain HTTP, as curl and the scripts of other projects do it
request = urllib.request.Request(f"{url}/generate", json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 3}}).encode(),
                                 {"Content-Type": "application/json", **bearer})
with urllib.request.urlopen(request) as reply:
    check("curl: /generate", "generated_text" in json.load(reply))
    check("curl: x-inference-time is a number", float(reply.headers["X-Inference-Time"]) >= 0)
try:
    urllib.request.urlopen(f"{url}/info")
    check("curl: no key is 401", False)
except urllib.error.HTTPError as e:
    check("curl: no key is 401", e.code == 401, e.code)
with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", headers=bearer)) as reply:
    page = reply.read().decode()
    check("curl: metrics", "tgi_request_count" in page and "vllm:generation_tokens_total" in page)

finish("clients_test.py", has_chat)

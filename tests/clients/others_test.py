# SPDX-License-Identifier: Apache-2.0
"""Original clients of Triton, PyTriton, Ollama and MariTalk, adapters that speak several systems, and the command lines
that the founding documents show, against a server without a key. Usage: others_test.py ENDPOINT_RECORD"""

import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read while it is imported: no look-up over the network

import litellm
import numpy as np
import ollama
import requests
import tritonclient.http as triton
from langchain_openai import ChatOpenAI, OpenAI as LangChainText
from maritalk import MariTalkLocal
from pytriton.client import ModelClient
from tritonclient.utils import InferenceServerException

import constrained
import maritalk_benchmark
import maritalk_server
from checks import check, finish, refused

record = json.loads(pathlib.Path(sys.argv[1]).read_text())
port = record["port"]
url = f"http://127.0.0.1:{port}"
question = "What is the capital of France?"
messages = [{"role": "user", "content": question}]
prompt = "The capital of France"

# --- Triton
t = triton.InferenceServerClient(f"127.0.0.1:{port}")
check("tritonclient: is_server_live, is_server_ready", t.is_server_live() and t.is_server_ready())
check("tritonclient: get_server_metadata", t.get_server_metadata()["name"] == "triton")
check("tritonclient: is_model_ready", t.is_model_ready("ensemble") and t.is_model_ready("ensemble", "1"))
check("tritonclient: get_model_repository_index", {"ensemble", "gpt2"} <= {m["name"] for m in t.get_model_repository_index()})
check("tritonclient: get_model_metadata", t.get_model_metadata("ensemble")["inputs"][0]["name"] == "text_input")
check("tritonclient: get_model_config", t.get_model_config("gpt2")["max_batch_size"] == 128)


def tensor(name, rows, dtype):
    values = np.array([[r] for r in rows], dtype=object if dtype == "BYTES" else {"INT32": np.int32, "UINT32": np.uint32}[dtype])
    return values, triton.InferInput(name, list(values.shape), dtype)


def infer(model, inputs, outputs, binary):
    tensors = []
    for name, rows, dtype in inputs:
        values, one = tensor(name, rows, dtype)
        one.set_data_from_numpy(values, binary_data=binary)
        tensors.append(one)
    return t.infer(model, tensors, request_id="7",
                   outputs=[triton.InferRequestedOutput(o, binary_data=binary) for o in outputs])


texts = {}
for binary in (True, False):
    r = infer("ensemble", [("text_input", [prompt.encode() if binary else prompt], "BYTES"), ("max_tokens", [6], "INT32")],
              ["text_output", "cum_log_probs"], binary)
    value = r.as_numpy("text_output").flatten()[0]
    texts[binary] = value.decode() if isinstance(value, bytes) else value
    check(f"tritonclient: infer with {'binary tensors' if binary else 'JSON tensors'}",
          texts[binary].startswith(prompt) and r.get_response()["id"] == "7", r.get_response())
check("tritonclient: both ways give one answer", texts[True] == texts[False], texts)
before = t.get_inference_statistics("ensemble")["model_stats"][0]
refused("tritonclient: unknown model is refused", InferenceServerException, lambda: t.get_model_metadata("other"))
refused("tritonclient: wrong datatype is refused", InferenceServerException,
        lambda: infer("ensemble", [("text_input", [1], "INT32"), ("max_tokens", [6], "INT32")], ["text_output"], True))
for _ in range(3):
    infer("ensemble", [("text_input", [prompt.encode()], "BYTES"), ("max_tokens", [4], "INT32")], ["text_output"], True)
after = t.get_inference_statistics("ensemble")["model_stats"][0]
stats = after["inference_stats"]
check("tritonclient: get_inference_statistics counts", after["inference_count"] - before["inference_count"] == 3
      and stats["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
      and stats["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1, after)
check("tritonclient: get_inference_statistics times", 0 < stats["compute_infer"]["ns"] < stats["success"]["ns"]
      and sum(stats[k]["ns"] for k in ("queue", "compute_input", "compute_infer", "compute_output")) <= stats["success"]["ns"], stats)

for init in (lambda: ModelClient(url, "gpt2", init_timeout_s=30),):
    with init() as client:
        out = client.infer_batch(prompts=np.char.encode(np.array([[prompt], ["Two"]]), "utf-8"),
                                 request_output_len=np.array([[6], [6]], dtype=np.uint32),
                                 beam_width=np.array([[1], [1]], dtype=np.uint32))
        sentences = [s.decode() for s in out["sentences"].reshape(-1)]
        check("pytriton: ModelClient.infer_batch of the FasterTransformer example",
              sentences[0].startswith(prompt) and sentences[1].startswith("Two"), out)
        check("pytriton: sequence_length counts characters", out["sequence_length"].reshape(-1).tolist() == [len(s) for s in sentences], out)
        check("pytriton: cum_log_probs", out["cum_log_probs"].dtype == np.float32 and (out["cum_log_probs"] <= 0).all(), out)

sampled = {"text_input": prompt, "max_tokens": 12, "top_p": 0.9, "random_seed": 7, "exclude_input_in_output": True}
whole = requests.post(f"{url}/v2/models/ensemble/generate", json=sampled).json()
pieces = [json.loads(line[6:]) for line in requests.post(f"{url}/v2/models/ensemble/generate_stream", json={**sampled, "stream": True},
                                                         stream=True).iter_lines(decode_unicode=True) if line]
check("curl: Triton generate_stream equals generate", "".join(p["text_output"] for p in pieces) == whole["text_output"], (pieces, whole))
guided = {"text_input": prompt, "max_tokens": 30, "top_k": 50, "seed": 3, "exclude_input_in_output": True}
whole = requests.post(f"{url}/v2/models/ensemble/generate", json={**guided, "guided_decoding_guide_type": "regex",
                                                                  "guided_decoding_guide": "[0-9]{3}-[a-f]{2}"}).json()
check("curl: Triton's guided_decoding_guide", re.fullmatch("[0-9]{3}-[a-f]{2}", whole["text_output"]) is not None, whole)


def events(path, body):
    reply = requests.post(url + path, json=body, stream=True)
    lines = [line[6:] for line in reply.iter_lines(decode_unicode=True) if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


sampled = {"inputs": prompt, "parameters": {"max_new_tokens": 16, "do_sample": True, "temperature": 1.5, "seed": 11, "details": True}}
whole = requests.post(f"{url}/generate", json=sampled).json()
pieces = events("/generate_stream", sampled)
check("curl: TGI generate_stream equals generate, sampled", pieces[-1]["generated_text"] == whole["generated_text"]
      and [p["token"]["id"] for p in pieces] == [t["id"] for t in whole["details"]["tokens"]], (pieces, whole))
sampled = {"messages": messages, "max_tokens": 16, "temperature": 1.5, "seed": 11}
for model in ("llama70b", "tgi"):
    whole = requests.post(f"{url}/v1/chat/completions", json={**sampled, "model": model}).json()["choices"][0]["message"]["content"]
    pieces = events("/v1/chat/completions", {**sampled, "model": model, "stream": True})
    check(f"curl: chat streamed equals chat, sampled, model {model}",
          "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces) == whole, (pieces, whole))
whole = requests.post(f"{url}/api/v1/chat/completions", json={**sampled, "model": "llama3"}).json()["choices"][0]["message"]["content"]
pieces = events("/api/v1/chat/completions", {**sampled, "model": "llama3", "stream": True})
check("curl: FastChat's own route streamed equals whole, sampled",
      "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces) == whole, (pieces, whole))
sampled = {"prompt": prompt, "max_tokens": 16, "temperature": 1.5, "seed": 11}
whole = requests.post(f"{url}/v1/completions", json=sampled).json()["choices"][0]["text"]
check("curl: completion streamed equals completion, sampled",
      "".join(p["choices"][0]["text"] for p in events("/v1/completions", {**sampled, "stream": True})) == whole, whole)
whole = requests.post(f"{url}/generate", json=sampled).json()["text"]
streamed = requests.post(f"{url}/generate", json={**sampled, "stream": True}).text.split("\0")
check("curl: vLLM's demonstration server, streamed equals whole", json.loads(streamed[-2])["text"] == whole, (streamed, whole))

# --- Ollama
o = ollama.Client(host=url)
name = "llama3"
options = {"seed": 7, "temperature": 1.0, "num_predict": 16}
check("ollama: list", o.list().models[0].model == "llama70b:latest", o.list())
check("ollama: show", o.show(name).details.family and "completion" in o.show(name).capabilities, o.show(name))
check("ollama: ps", len(o.ps().models) == 1, o.ps())
check("ollama: pull", [s.status for s in o.pull(name, stream=True)][-1] == "success" and o.pull(name).status == "success")
chat = o.chat(model=name, messages=messages, options=options)
check("ollama: chat", chat.done and chat.message.content and chat.eval_count >= 1 and chat.total_duration > 0, chat)
streamed = list(o.chat(model=name, messages=messages, options=options, stream=True))
check("ollama: chat streamed equals chat", "".join(p.message.content for p in streamed) == chat.message.content, streamed)
one = o.generate(model=name, prompt=question, options=options)
check("ollama: generate", one.response == chat.message.content and one.context, one)
parts = list(o.generate(model=name, prompt=question, options=options, stream=True))
check("ollama: generate streamed equals generate", "".join(p.response for p in parts) == one.response, parts)
more = o.generate(model=name, prompt="And of Spain?", context=one.context, options=options)
check("ollama: generate continues a context", more.prompt_eval_count > one.prompt_eval_count, more)
check("ollama: generate raw", o.generate(model=name, prompt=prompt, raw=True, options={"temperature": 0, "num_predict": 4}).response != "")
error = refused("ollama: unknown model is 404", ollama.ResponseError, lambda: o.chat(model="mistral", messages=messages))
check("ollama: the refusal names the model", error is not None and error.status_code == 404 and "mistral" in error.error, error)
refused("ollama: embed is refused", ollama.ResponseError, lambda: o.embed(model=name, input="a"))

scored = o.chat(model=name, messages=messages, options=options, logprobs=True, top_logprobs=2)
check("ollama: chat with logprobs", "".join(t.token for t in scored.logprobs) == scored.message.content == chat.message.content
      and all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in scored.logprobs), scored)
parts = list(o.generate(model=name, prompt=question, options=options, logprobs=True, stream=True))
check("ollama: generate with logprobs, streamed", [t.token for p in parts for t in p.logprobs or []] == [t.token for t in scored.logprobs], parts)

constrained.run_ollama(o, name)


# The command line is not to be had from a package index: what its versions 0.2.5 and later send is sent here.
def cli(method, path, body=None, agent="ollama/0.2.5 (amd64 linux) Go/go1.22.5"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    accept = "application/x-ndjson" if path in ("/api/chat", "/api/generate", "/api/pull") else "application/json"
    connection.request(method, path, None if body is None else json.dumps(body),
                       {"Content-Type": "application/json", "Accept": accept, "User-Agent": agent})
    reply = connection.getresponse()
    text = reply.read().decode()
    lines = [json.loads(line) for line in text.splitlines()] if reply.status == 200 and text.startswith("{") else []
    connection.close()
    return reply.status, lines, text


def turn(reply):
    status, lines, _ = reply
    return status == 200 and lines[-1]["done"] and lines[-1]["done_reason"] in ("stop", "length") and lines[-1]["eval_count"] >= 1


ask = {"model": name, "messages": messages, "format": "", "options": {}}
check("ollama command line: run 0.2.5, heartbeat", cli("HEAD", "/")[0] == 200)
status, lines, _ = cli("POST", "/api/show", {"name": name})
check("ollama command line: run 0.2.5, show", status == 200 and "parameter_size" in lines[0]["details"], lines)
status, lines, _ = cli("POST", "/api/chat", {"model": name, "messages": None, "format": "", "options": {}})
check("ollama command line: run 0.2.5, load", status == 200 and lines == [lines[0]] and lines[0]["done_reason"] == "load", lines)
first = cli("POST", "/api/chat", ask)
check("ollama command line: run 0.2.5, a turn", turn(first), first)
answer = "".join(line["message"]["content"] for line in first[1])
history = messages + [{"role": "assistant", "content": answer}, {"role": "user", "content": "And of Spain?"}]
check("ollama command line: run 0.2.5, the next turn", turn(cli("POST", "/api/chat", {**ask, "messages": history})))
check("ollama command line: run 0.2.5 with a prompt",
      turn(cli("POST", "/api/generate", {"model": name, "prompt": question, "system": "", "template": "", "context": [], "format": "", "options": {}})))
new = "ollama/0.9.0 (amd64 linux) Go/go1.24.3"
check("ollama command line: run 0.9, show", cli("POST", "/api/show", {"model": name, "system": "", "template": "", "verbose": False, "options": None}, new)[0] == 200)
check("ollama command line: run 0.9, load", cli("POST", "/api/generate", {"model": name, "prompt": "", "suffix": "", "system": "", "template": "", "options": None}, new)[1][-1]["done_reason"] == "load")
check("ollama command line: run 0.9, a turn", turn(cli("POST", "/api/chat", {"model": name, "messages": messages, "options": {}, "think": None}, new)))
check("ollama command line: run of another model", cli("POST", "/api/show", {"name": "mistral"})[0] == 404 and cli("POST", "/api/pull", {"name": "mistral"})[0] == 404)
check("ollama command line: pull", cli("POST", "/api/pull", {"name": name, "insecure": False})[1][-1]["status"] == "success")
check("ollama command line: list", cli("GET", "/api/tags")[1][0]["models"][0]["digest"][:12].isalnum())
check("ollama command line: ps", "expires_at" in cli("GET", "/api/ps")[1][0]["models"][0])
check("ollama command line: stop", cli("POST", "/api/generate", {"model": name, "keep_alive": 0})[1][-1]["done_reason"] == "unload")
check("ollama command line: --version", "version" in cli("GET", "/api/version")[1][0])

# --- MariTalk
m = MariTalkLocal(host="127.0.0.1", port=port)
check("maritalk: status", m.status() == {"status": "idle"}, m.status())
reply = m.generate(messages, max_tokens=16, do_sample=False)
check("maritalk: generate", set(reply) == {"output", "queue_time", "generation_time"} and reply["output"], reply)
check("maritalk: generate takes a string", m.generate(question, max_tokens=16, do_sample=False)["output"] == reply["output"])
raw = m.generate_raw(prompt, max_tokens=8, seed=3, temperature=3.0)
check("maritalk: generate_raw repeats with a seed", raw["output"] == m.generate_raw(prompt, max_tokens=8, seed=3, temperature=3.0)["output"], raw)
check("maritalk: times are seconds", isinstance(raw["generation_time"], float) and 0 < raw["generation_time"] < 60, raw)
check("maritalk: defaults fit any context", "output" in m.generate(question))
check("maritalk: a mistake comes back as JSON", "detail" in m.generate_raw(prompt, temperature=-1), m.generate_raw(prompt, temperature=-1))
maritalk_server.run(os.environ["SLUICE_BINARY"], os.environ["SLUICE_TEST_MODEL"])
maritalk_benchmark.run(os.environ["SLUICE_BINARY"], os.environ["SLUICE_TEST_MODEL"])

# --- adapters
litellm.telemetry = False
for model, base in (("openai/llama70b", f"{url}/v1"), ("hosted_vllm/llama70b", f"{url}/v1"), ("ollama_chat/llama3", url),
                    ("ollama/llama3", url)):
    ask = {"model": model, "api_base": base, "api_key": "none", "messages": messages, "max_tokens": 12, "temperature": 0.0}
    whole = litellm.completion(**ask).choices[0].message.content
    check(f"litellm: completion {model.split('/')[0]}", bool(whole), whole)
    streamed = "".join(c.choices[0].delta.content or "" for c in litellm.completion(**ask, stream=True))
    check(f"litellm: completion {model.split('/')[0]} streamed equals whole", streamed == whole, (streamed, whole))
r = litellm.completion(model="triton/ensemble", api_base=f"{url}/v2/models/ensemble/generate", messages=messages, max_tokens=8)
check("litellm: completion triton", question in r.choices[0].message.content, r)
r = litellm.text_completion(model="text-completion-openai/llama70b", api_base=f"{url}/v1", api_key="none", prompt=prompt, max_tokens=4)
check("litellm: text_completion", bool(r.choices[0].text), r)

lc = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="llama70b", temperature=0, max_tokens=12)
said = lc.invoke(question).content
check("langchain: ChatOpenAI.invoke", bool(said), said)
check("langchain: ChatOpenAI.stream equals invoke", "".join(c.content for c in lc.stream(question)) == said)
check("langchain: ChatOpenAI.batch", [r.content for r in lc.batch([question, question])] == [said, said])
check("langchain: OpenAI.invoke", bool(LangChainText(base_url=f"{url}/v1", api_key="none", model="llama70b", max_tokens=4).invoke(prompt)))

constrained.run_langchain(ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="llama70b", max_tokens=200))

# --- the lines that the founding documents show; only host and port are put in
LINES = {
    "TGI on Mila and Compute Canada": r"""curl http://cn-g017:10148/generate \
  -X POST \
  -d '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}' \
  -H 'Content-Type: application/json'""",
    "Energon": 'curl -X POST http://ip:port/generation -H "Content-Type: application/json" -d @test.json',
    "FastChat": r"""curl http://localhost:8000/v1/chat/completions \
 -H "Content-Type: application/json" \
 -d '{
   "model": "llama70b",
   "messages": [{"role": "user", "content": "Human: Who won the world cup in 2006?"}],
   "max_tokens":20
 }'""",
    "vLLM": r"""curl http://localhost:8000/v1/chat/completions \
 -H "Content-Type: application/json" \
 -d '{
   "model": "llama70b",
   "messages": [{"role": "user", "content": "Who won the world cup in 2006?"}],
   "max_tokens":100
 }'""",
    "Triton generate": """curl -X POST localhost:8000/v2/models/ensemble/generate -d '{"text_input": "What is machine learning?", "max_tokens": 20, "bad_words": "", "stop_words": ""}'""",
    "Triton statistics": "curl -X GET http://localhost:8000/v2/models/ensemble/versions/1/stats",
}
EXPECT = {
    "TGI on Mila and Compute Canada": lambda r: isinstance(r["generated_text"], str),
    "Energon": lambda r: r["text"].startswith("However, there are still immense benefits to learning quantum computing."),
    "FastChat": lambda r: r["choices"][0]["message"]["role"] == "assistant" and r["model"] == "llama70b",
    "vLLM": lambda r: r["choices"][0]["message"]["role"] == "assistant" and r["usage"]["completion_tokens"] <= 100,
    "Triton generate": lambda r: list(r) == sorted(r) and r["text_output"].startswith("What is machine learning?"),
    "Triton statistics": lambda r: r["model_stats"][0]["inference_stats"]["success"]["count"] > 0,
}
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "test.json").write_text("""{
    "prompt": "However, there are still immense benefits to learning quantum computing.",
    "top_p": 0.90,
    "top_k": 40,
    "max_new_tokens": 60
}
""")
    for label, line in LINES.items():
        line = re.sub(r"cn-g017:10148|ip:port|localhost:8000", f"127.0.0.1:{port}", line)
        out = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120).stdout
        try:
            good = EXPECT[label](json.loads(out))
        except (ValueError, KeyError) as e:
            good = False
        check(f"curl: {label}", good, out)


# --- a client that goes away frees its blocks
def gauge(name):
    page = requests.get(f"{url}/metrics").text
    return float(re.search(rf"^{name} (\S+)$", page, re.M).group(1))


LONG = {
    "/generate_stream": {"inputs": prompt, "parameters": {"max_new_tokens": 400, "do_sample": True, "temperature": 5.0}},
    "/v1/chat/completions": {"messages": messages, "stream": True, "ignore_eos": True, "n": 4},
    "/v1/completions": {"prompt": prompt, "stream": True, "ignore_eos": True, "max_tokens": 400, "n": 4},
    "/api/generate": {"model": name, "prompt": prompt, "options": {"temperature": 5.0, "top_k": 0, "top_p": 1.0}},
    "/api/chat": {"model": name, "messages": messages, "options": {"temperature": 5.0, "top_k": 0, "top_p": 1.0}},
    "/": {"inputs": prompt, "stream": True, "parameters": {"max_new_tokens": 400, "do_sample": True, "temperature": 5.0}},
    "/generate": {"prompt": prompt, "stream": True, "ignore_eos": True, "max_tokens": 400, "n": 4},
    "/api/v1/chat/completions": {"model": name, "messages": messages, "stream": True, "ignore_eos": True, "n": 4},
    "/v2/models/ensemble/generate_stream": {"text_input": prompt, "max_tokens": 400, "stream": True, "min_tokens": 400},
}
for path, body in LONG.items():
    left, waited = 0, None
    for attempt in range(10):
        before = gauge("sluice_requests_cancelled_total")
        data = json.dumps(body)
        with socket.create_connection(("127.0.0.1", port)) as leaver:
            leaver.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(data)}\r\n\r\n{data}".encode())
            seen = b""
            while not seen.partition(b"\r\n\r\n")[2]:  # the first piece: the request holds blocks
                piece = leaver.recv(65536)
                assert piece, f"{path} closed after {seen!r}"
                seen += piece
        begun = time.monotonic()
        while time.monotonic() - begun < 3:
            left = gauge("sluice_requests_cancelled_total") - before
            if left > 0 and gauge("sluice_cache_blocks_used") == 0:
                break
            time.sleep(0.005)
        waited = time.monotonic() - begun
        if left > 0 and waited < 0.1:
            break  # else the answer had ended before its reader left, or the machine was busy
    print(f"       {path}: blocks free {waited * 1000:.0f} ms after the client left, attempt {attempt + 1}")
    check(f"curl: a client that leaves {path} frees its blocks within 100 ms", left > 0 and waited < 0.1, waited)

# Clients of these systems wait for the whole answer: one leaves once its request has blocks.
WHOLE = {
    "MariTalk's /chat/generate": ("/chat/generate", {"messages": messages, "max_tokens": 400, "temperature": 5.0}),
    "Energon's /generation": ("/generation", {"prompt": prompt, "max_new_tokens": 256}),
    "PyTriton's infer": ("/v2/models/gpt2/infer", {"inputs": [
        {"name": "prompts", "shape": [1, 1], "datatype": "BYTES", "data": [prompt]},
        {"name": "request_output_len", "shape": [1, 1], "datatype": "UINT32", "data": [400]},
        {"name": "beam_width", "shape": [1, 1], "datatype": "UINT32", "data": [1]}]}),
}
for label, (path, body) in WHOLE.items():
    data = json.dumps(body)
    for attempt in range(20):
        cancelled = gauge("sluice_requests_cancelled_total")
        with socket.create_connection(("127.0.0.1", port)) as leaver:
            leaver.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(data)}\r\n\r\n{data}".encode())
            begun = time.monotonic()
            while gauge("sluice_cache_blocks_used") == 0 and time.monotonic() - begun < 10:
                pass
        begun = time.monotonic()
        while gauge("sluice_cache_blocks_used") > 0 and time.monotonic() - begun < 10:
            time.sleep(0.002)
        waited = time.monotonic() - begun
        if gauge("sluice_requests_cancelled_total") > cancelled and waited < 0.1:
            break
    print(f"       {label}: blocks free {waited * 1000:.0f} ms after the client left, attempt {attempt + 1}")
    check(f"curl: a client that leaves {label} frees its blocks within 100 ms",
          waited < 0.1 and gauge("sluice_requests_cancelled_total") > cancelled, waited)

finish("others_test.py", True)

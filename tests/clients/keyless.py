# SPDX-License-Identifier: Apache-2.0
"""Clients that cannot send a key, unmodified, against a server that asks for one: through `sluice connect`, the local
proxy that adds it."""

import os
import subprocess

import numpy as np
import ollama
import requests
import tritonclient.http as triton
from maritalk import MariTalkLocal
from pytriton.client import ModelClient

from checks import check


def run(record, served):
    proxy = subprocess.Popen([os.environ["SLUICE_BINARY"], "connect", record["id"]], stdout=subprocess.PIPE, text=True)
    try:
        talk(proxy.stdout.readline().strip(), f"http://127.0.0.1:{record['port']}", served)
    finally:
        proxy.terminate()
        proxy.wait(20)


def talk(url, direct, served):
    port = int(url.rsplit(":", 1)[1])
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = "The capital of France"

    check("curl: sluice connect adds the key", requests.get(f"{direct}/info").status_code == 401
          and requests.get(f"{url}/info").json()["model_id"] == served)
    m = MariTalkLocal(host="127.0.0.1", port=port)
    reply = m.generate(question, max_tokens=8, do_sample=False)
    check("maritalk: through sluice connect", m.status() == {"status": "idle"} and reply["output"], reply)

    o = ollama.Client(host=url)
    options = {"temperature": 0, "num_predict": 8}
    pieces = list(o.chat(model=served, messages=question, options=options, stream=True))
    check("ollama: through sluice connect", o.list().models and o.show(served).details.family
          and "".join(p.message.content for p in pieces) == reply["output"], pieces)

    t = triton.InferenceServerClient(f"127.0.0.1:{port}")
    text, tokens = triton.InferInput("text_input", [1, 1], "BYTES"), triton.InferInput("max_tokens", [1, 1], "INT32")
    text.set_data_from_numpy(np.array([[prompt.encode()]], dtype=object))
    tokens.set_data_from_numpy(np.array([[6]], dtype=np.int32))
    r = t.infer("ensemble", [text, tokens], outputs=[triton.InferRequestedOutput("text_output", binary_data=True)])
    check("tritonclient: through sluice connect", t.is_server_ready()
          and r.as_numpy("text_output").flatten()[0].decode().startswith(prompt), r.get_response())
    name = t.get_model_repository_index()[-1]["name"]
    with ModelClient(url, name, init_timeout_s=30) as client:
        out = client.infer_batch(prompts=np.array([[prompt.encode()]]), request_output_len=np.array([[6]], dtype=np.uint32),
                                 beam_width=np.array([[1]], dtype=np.uint32))
    check("pytriton: through sluice connect", out["sentences"].reshape(-1)[0].decode().startswith(prompt), out)

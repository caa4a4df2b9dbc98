# SPDX-License-Identifier: Apache-2.0
"""A model with an encoder through HTTP and offline: the prompt goes to the encoder, the answer comes from the decoder."""
import json
import unittest

import harness

FLAN = str(harness.ROOT / "tests/golden/t5/flan")
ANSWERS = json.loads((harness.ROOT / "tests/golden/t5/flan/answers.json").read_text())
RUN = ("--dtype", "float32", "--max-batch-prefill-tokens", 96, "--max-total-tokens", 64)


class Encoder(harness.Case):
    def test_http_answers_equal_the_reference_and_limits_hold_apart(self):
        for launcher, layout in ((), ()), (harness.mpirun(2), ("--pp", 2)):
            server = self.serve(*RUN, *layout, model=FLAN, launcher=launcher)
            for answer in ANSWERS:
                reply = server.post("/generate", {"inputs": answer["prompt"], "parameters": {
                    "max_new_tokens": len(answer["ids"]), "details": True}})
                self.assertEqual([t["id"] for t in reply["details"]["tokens"]], answer["ids"])
                self.assertEqual(reply["generated_text"], answer["text"])
                body = {"model": "flan", "prompt": answer["prompt"], "max_tokens": len(answer["ids"]), "temperature": 0}
                reply = server.post("/v1/completions", body)
                self.assertEqual(reply["choices"][0]["text"], answer["text"])
                self.assertEqual(reply["usage"]["prompt_tokens"], len(answer["prompt_ids"]))
                chunks = [json.loads(e) for e in server.events("/v1/completions", {**body, "stream": True}) if e != "[DONE]"]
                self.assertEqual("".join(c["choices"][0]["text"] for c in chunks if c["choices"]), answer["text"])
            info = json.loads(server.request("GET", "/info")[1])
            self.assertEqual(info["max_input_tokens"], 64)
            status, text = server.request("POST", "/generate", {"inputs": " ".join(["the"] * 64), "parameters": {"max_new_tokens": 4}})
            self.assertEqual(status, 422, text)
            status, text = server.request("POST", "/generate", {"inputs": "a", "parameters": {"max_new_tokens": 64}})
            self.assertEqual(status, 422, text)
            self.assertIn("must be <= 63", text)
            # A prompt and an answer of the longest each: their sum is above either limit.
            reply = server.post("/generate", {"inputs": " ".join(["the"] * 63), "parameters": {
                "max_new_tokens": 63, "details": True}})
            self.assertLessEqual(reply["details"]["generated_tokens"], 63)
            status, text = server.request("POST", "/v1/chat/completions",
                                          {"model": "flan", "messages": [{"role": "user", "content": "a"}]})
            self.assertIn(status, (400, 422))
            self.assertIn("chat template", text)
            code = server.terminate()  # a killed mpirun leaves its ranks behind
            if not launcher:
                self.assertEqual(code, 0)

    def test_offline_answers_equal_the_reference(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": a["prompt"], "max_tokens": len(a["ids"])} for a in ANSWERS])
        done = self.run_sluice("generate", "--model", FLAN, "--prompts", prompts, "--output", self.folder / "out.jsonl", *RUN)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = self.read_lines("out.jsonl")
        self.assertEqual([a["text"] for a in answers], [a["text"] for a in ANSWERS])
        self.assertEqual([a["prompt_tokens"] for a in answers], [len(a["prompt_ids"]) for a in ANSWERS])


if __name__ == "__main__":
    unittest.main()

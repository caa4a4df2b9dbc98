# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import random
import signal
import subprocess
import time

import harness
from harness import BINARY, DEMO, GOLDEN, ROOT


class Generate(harness.Case):
    def generate(self, prompts, output, *arguments, **kwargs):
        return self.run_sluice("generate", "--model", DEMO, "--prompts", prompts, "--output", self.folder / output,
                               *arguments, **kwargs)

    def test_the_demo_model_answers_95_percent_of_questions_it_never_saw(self):
        questions = [json.loads(line) for line in (ROOT / "tests/models/demo_questions.jsonl").read_text().splitlines()]
        prompts = self.write_lines("in.jsonl", [{"messages": [{"role": "user", "content": q["prompt"]}], "id": i}
                                                for i, q in enumerate(questions)])
        done = self.generate(prompts, "out.jsonl", "--max-new-tokens", 48)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = self.read_lines("out.jsonl")
        self.assertEqual([a["index"] for a in answers], list(range(len(questions))))
        self.assertEqual([a["id"] for a in answers], list(range(len(questions))))
        right = sum(q["answer"].lower() in a["text"].lower() for q, a in zip(questions, answers))
        self.assertGreaterEqual(right, 0.95 * len(questions))

    def test_greedy_answers_equal_the_reference(self):
        cases = GOLDEN["chat"]
        prompts = self.write_lines("in.jsonl", [{"messages": c["messages"]} for c in cases])
        self.assertEqual(self.generate(prompts, "out.jsonl", "--max-new-tokens", 200, "--threads", 2).returncode, 0)
        for case, answer in zip(cases, self.read_lines("out.jsonl")):
            self.assertEqual(answer["text"], case["text"])
            self.assertEqual(answer["prompt_tokens"], len(case["prompt_ids"]))
        raw = [c for c in GOLDEN["raw"] if len(c["ids"]) > 0]
        prompts = self.write_lines("raw.jsonl", [{"prompt": c["prompt"], "max_tokens": len(c["ids"])} for c in raw])
        self.assertEqual(self.generate(prompts, "raw.out").returncode, 0)
        for case, answer in zip(raw, self.read_lines("raw.out")):
            self.assertEqual(answer["text"], case["text"])

    def test_a_beam_search_gives_the_best_answer_of_each_line(self):
        prompt = GOLDEN["raw"][0]["prompt"]
        prompts = self.write_lines("beams.jsonl", [{"prompt": prompt, "num_beams": width, "max_tokens": 12, "length_penalty": 0.5} for width in (4, 4, 2)]
                                   + [{"prompt": prompt, "num_beams": 2, "temperature": 0.5}, {"prompt": prompt, "length_penalty": 0.5}])
        self.assertEqual(self.generate(prompts, "beams.out").returncode, 4)  # two lines are refused
        answers = self.read_lines("beams.out")
        self.assertEqual(answers[0]["text"], answers[1]["text"])
        self.assertIn("temperature", answers[3]["error"])
        self.assertIn("length_penalty has no effect", answers[4]["error"])

    def test_killed_runs_lose_nothing_and_end_with_the_same_bytes(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": f"Once upon a time there was a fox number {i}", "max_tokens": 8 + i % 32,
                                                 "temperature": 0.8} for i in range(600)])
        started = time.monotonic()
        self.assertEqual(self.generate(prompts, "whole.jsonl").returncode, 0)
        whole = time.monotonic() - started
        chance = random.Random(5)
        output = self.folder / "out.jsonl"
        journal = pathlib.Path(f"{output}.journal")
        kills = 0
        while not output.exists():
            process = subprocess.Popen([BINARY, "generate", "--model", DEMO, "--prompts", prompts, "--output", output,
                                        "--max-batch-size", str(chance.choice([1, 5, 32]))],
                                       env=self.environment, stderr=subprocess.DEVNULL)
            try:
                while kills == 0 and process.poll() is None and not (journal.exists() and journal.stat().st_size > 8192):
                    time.sleep(0.005)
                process.wait(whole * (0.2 + chance.random() * 0.6 + 0.1 * kills) if kills > 0 else 0)
                self.assertEqual(process.returncode, 0)
            except subprocess.TimeoutExpired:
                process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
                # A process that TERM meets before its main() blocks it dies of it, as by KILL.
                self.assertIn(process.wait(240), (-signal.SIGKILL, -signal.SIGTERM, 75, 0))
                kills += 1
            self.assertLess(kills, 60)
        self.assertGreater(kills, 0)
        self.assertEqual(output.read_bytes(), (self.folder / "whole.jsonl").read_bytes())

    def test_a_second_run_has_nothing_to_do_and_another_prompt_file_is_refused(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": "Once"}])
        self.assertEqual(self.generate(prompts, "o", "--max-new-tokens", 4).returncode, 0)
        started = time.monotonic()
        done = self.generate(prompts, "o")
        self.assertEqual(done.returncode, 0)
        self.assertIn("nothing to do", done.stderr)
        self.assertLess(time.monotonic() - started, 20)
        other = self.write_lines("other.jsonl", [{"prompt": "Twice"}])
        refused = self.generate(other, "o")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("does not hold the answers to these prompts", refused.stderr)

    def test_openai_batches_come_out_as_the_server_answers_them_with_bad_lines_named(self):
        chat = {"model": DEMO, "messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 12, "temperature": 0}
        prompts = self.write_lines("in.jsonl", [
            {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": chat},
            {"custom_id": "two", "method": "POST", "url": "/v1/completions", "body": {"model": DEMO, "prompt": "Once upon a time", "max_tokens": 5, "n": 2, "temperature": 1}},
            {"custom_id": "three", "method": "POST", "url": "/v1/chat/completions", "body": {**chat, "top_p": 7}},
            {"custom_id": "four", "method": "PUT", "url": "/v1/completions", "body": {}},
            {"custom_id": "five", "method": "POST", "url": "/v1/chat/completions", "body": {**chat, "model": "gpt-4o"}}])
        done = self.generate(prompts, "a.jsonl")
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("line 4: 'method': expected POST", done.stderr)
        answers = self.read_lines("a.jsonl")
        self.assertEqual([a["custom_id"] for a in answers], ["one", "two", "three", "four", "five"])
        self.assertEqual([list(a) for a in answers], [["id", "custom_id", "response", "error"]] * 5)
        self.assertEqual([a["response"] and a["response"]["status_code"] for a in answers], [200, 200, 400, None, 404])
        self.assertIn("Paris", answers[0]["response"]["body"]["choices"][0]["message"]["content"])
        self.assertEqual(len(answers[1]["response"]["body"]["choices"]), 2)
        self.assertIn("line 4", answers[3]["error"]["message"])
        self.assertEqual(self.generate(prompts, "b.jsonl", "--max-batch-size", 2).returncode, 4)
        self.assertEqual((self.folder / "b.jsonl").read_bytes(), (self.folder / "a.jsonl").read_bytes())
        named = self.generate(prompts, "c.jsonl", "--served-model-name", "gpt-4o,other")
        self.assertEqual([a["response"] and a["response"]["status_code"] for a in self.read_lines("c.jsonl")], [200, 200, 400, None, 200], named.stderr)
        again = self.generate(prompts, "a.jsonl")
        self.assertEqual(again.returncode, 4)
        self.assertIn("3 of its answers carry an error", again.stderr)
        record = sorted((self.folder / "home/jobs").glob("*.progress"))[0]
        self.assertEqual(record.stat().st_mode & 0o777, 0o600)
        status = self.run_sluice("status", record.stem)
        self.assertEqual(status.returncode, 1, status.stderr)  # it has ended
        self.assertRegex(status.stdout, r"state +complete\nprompts +5 of 5, 3 with an error\n")
        self.assertEqual(json.loads(self.run_sluice("status", record.stem, "--json").stdout)["done"], 5)

    def test_a_running_server_answers_a_file_as_the_engine_itself_does(self):
        lines = [{"prompt": f"What is {i} plus 3?", "max_new_tokens": 10, "temperature": 0.7 * (i % 2), "id": i} for i in range(20)]
        lines += [{"messages": [{"role": "user", "content": "What is the capital of France?"}]}, {"prompt": "x", "top_p": 7}]
        prompts = self.write_lines("in.jsonl", lines)
        self.assertEqual(self.generate(prompts, "own.jsonl", "--max-new-tokens", 16).returncode, 4)
        server = self.serve()
        key = self.folder / "key"
        key.write_text(server.key + "\n")
        url = f"http://127.0.0.1:{server.port}"
        refused = self.run_sluice("generate", "--url", url, "--prompts", prompts, "--output", self.folder / "o", environment={"SLUICE_HOME": str(self.folder / "other")})
        self.assertEqual(refused.returncode, 2)
        self.assertIn("refuses the key", refused.stderr)
        done = self.run_sluice("generate", "--url", url, "--key-file", key, "--connections", 4, "--max-new-tokens", 16, "--prompts", prompts,
                               "--output", self.folder / "asked.jsonl")
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertEqual(self.read_lines("asked.jsonl"), self.read_lines("own.jsonl"))
        job = server.start.get("id") or next((self.folder / "home/jobs").glob("*.json")).stem
        done = self.run_sluice("generate", "--url", job, "--prompts", prompts, "--max-new-tokens", 16, "--output", self.folder / "job.jsonl")
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertEqual((self.folder / "job.jsonl").read_bytes(), (self.folder / "asked.jsonl").read_bytes())

    def test_a_server_that_comes_back_is_waited_for_and_nothing_is_lost(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": f"Once upon a time there was a fox number {i}", "max_tokens": 40, "temperature": 0.8} for i in range(300)])
        self.assertEqual(self.generate(prompts, "own.jsonl").returncode, 0)
        server = self.serve("--auth", "none")
        asking = subprocess.Popen([BINARY, "generate", "--url", f"http://127.0.0.1:{server.port}", "--connections", "8", "--prompts", prompts, "--output",
                                   self.folder / "asked.jsonl"], env=self.environment, stderr=subprocess.PIPE, text=True)
        self.addCleanup(asking.kill)
        journal = self.folder / "asked.jsonl.journal"
        while not journal.exists() or journal.stat().st_size < 3000:
            self.assertIsNone(asking.poll())
            time.sleep(0.02)
        server.kill()
        self.serve("--auth", "none", "--port", server.port)
        self.assertEqual(asking.wait(600), 0, asking.stderr.read())
        asking.stderr.close()
        self.assertEqual((self.folder / "asked.jsonl").read_bytes(), (self.folder / "own.jsonl").read_bytes())

    def test_random_weights_answer_through_byte_tokens(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": "hello", "max_tokens": 3}])
        done = self.run_sluice("generate", "--random-init", "llama-tiny", "--prompts", prompts, "--output", self.folder / "o")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.read_lines("o")[0]["prompt_tokens"], 6)


if __name__ == "__main__":
    harness.main()

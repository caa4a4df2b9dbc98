# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import json
import pathlib
import signal
import stat
import subprocess
import time

import harness
from harness import DEMO, GOLDEN, ROOT


class Serve(harness.Case):
    def test_start_line_record_and_key(self):
        server = self.serve(environment={"MAX_BEST_OF": "3"})
        start = server.start
        self.assertEqual((start["world"], start["tp"], start["pp"], start["launcher"]), (1, 1, 1, "single"))
        self.assertEqual(start["settings"]["model"], {"value": DEMO, "origin": "--model"})
        self.assertEqual(start["settings"]["max-best-of"], {"value": "3", "origin": "MAX_BEST_OF"})
        home = self.folder / "home"
        record_path = home / "jobs" / f"{start['record']}.json"
        record = json.loads(record_path.read_text())
        self.assertEqual((record["state"], record["port"]), ("ready", server.port))
        for path in (record_path, pathlib.Path(start["key_file"])):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(home.stat().st_mode), 0o700)
        self.assertNotIn(server.key, server.text())
        self.assertIn("curl", server.text())
        self.assertEqual(server.request("GET", "/health", key=False)[0], 200)
        self.assertEqual(server.request("GET", "/info", key=False)[0], 401)
        self.assertEqual(server.request("POST", "/generate", {"inputs": "x"}, key=False)[0], 401)
        self.assertEqual(server.terminate(), 0)
        self.assertEqual(json.loads(record_path.read_text())["state"], "stopped")
        # Its address may be another server's by now, which gets neither its key nor its questions.
        other = self.serve("--port", str(server.port))
        for words in (["metrics"], ["connect"], ["run"], ["generate", "--prompts", __file__, "--output", self.folder / "o", "--url"]):
            done = self.run_sluice(*words, start["record"], *(["hi"] if words == ["run"] else []))
            self.assertEqual((done.returncode, done.stderr), (2, f"sluice: job {start['record']} is stopped: drained\n"), words)
        self.assertEqual(other.terminate(), 0)

    def test_the_record_says_why_a_server_could_not_start(self):
        done = self.run_sluice("serve", DEMO, "--tp", "3")
        self.assertEqual(done.returncode, 2)
        words = done.stderr.strip().removeprefix("sluice: ")
        self.assertIn("--tp 3 does not divide the 1 rank started: with 1 rank --tp 1 --pp 1 would work", words)
        record = next((self.folder / "home" / "jobs").glob("*.json"))
        self.assertEqual(json.loads(record.read_text())["reason"], words)

    def test_ctrl_c_ends_what_follows_or_measures(self):
        log = self.folder / "job.log"
        log.write_text("the log\n")
        server = self.serve(environment={"SLUICE_LOG": str(log)})
        alone = {"RANK": "0", "WORLD_SIZE": "2"}  # a rank whose other never comes
        for words, environment, code in (
            (["logs", "-f", server.start["record"]], {}, -signal.SIGINT),
            (["bench", "--model", DEMO, "--repeats", "1000"], {}, -signal.SIGINT),
            (["bench", "serve", "--url", server.start["record"], "--seconds", "100"], {}, -signal.SIGINT),
            (["download", "a/b"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 75),
            (["run", DEMO, "hi"], alone, 128 + signal.SIGINT),
            (["generate", "--model", DEMO, "--prompts", log, "--output", self.folder / "out"], alone, 75),
        ):
            process = subprocess.Popen([harness.BINARY, *map(str, words)], env={**self.environment, **environment},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            time.sleep(2)
            self.assertIsNone(process.poll(), words)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=10)
            self.assertEqual(process.returncode, code, (words, output))

    def test_the_routes_of_first_light_answer(self):
        server = self.serve("--auth", "none")
        case = GOLDEN["chat"][0]
        chat = {"model": "tgi", "messages": case["messages"], "temperature": 0, "max_tokens": 200}
        reply = server.post("/v1/chat/completions", chat)
        self.assertEqual(reply["choices"][0]["message"]["content"], case["text"])
        self.assertEqual(reply["usage"]["prompt_tokens"], len(case["prompt_ids"]))
        events = server.events("/v1/chat/completions", {**chat, "stream": True})
        self.assertEqual(events[-1], "[DONE]")
        pieces = [c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e)["choices"]]
        self.assertEqual("".join(pieces), case["text"])
        raw = GOLDEN["raw"][0]
        body = {"inputs": raw["prompt"], "parameters": {"max_new_tokens": len(raw["ids"]), "details": True}}
        whole = server.post("/generate", body)
        self.assertEqual(whole["generated_text"], raw["text"])
        self.assertEqual([t["id"] for t in whole["details"]["tokens"]], raw["ids"])
        stream = [json.loads(e) for e in server.events("/generate_stream", body)]
        self.assertEqual("".join(e["token"]["text"] for e in stream), raw["text"])
        self.assertEqual(stream[-1]["generated_text"], raw["text"])
        done = server.post("/v1/completions", {"prompt": raw["prompt"], "max_tokens": len(raw["ids"]), "temperature": 0})
        self.assertEqual(done["choices"][0]["text"], raw["text"])
        self.assertEqual(server.post("/v1/chat/completions", {**chat, "n": 2, "temperature": 0.9, "seed": 3})["choices"][1]["index"], 1)
        beams = server.post("/v1/completions", {"prompt": raw["prompt"], "max_tokens": 12, "use_beam_search": True, "best_of": 4, "n": 3,
                                                "logprobs": 0})["choices"]
        sums = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"]) for c in beams]
        self.assertEqual(sums, sorted(sums, reverse=True))
        self.assertEqual(len({c["text"] for c in beams}), 3)
        search = server.post("/v2/models/ensemble/generate", {"text_input": raw["prompt"], "max_tokens": 12, "beam_width": 4,
                                                             "return_log_probs": True})
        self.assertEqual(search["cum_log_probs"], sorted(search["cum_log_probs"], reverse=True))
        self.assertEqual(len(search["text_output"]), 4)
        for path in ("/info", "/v1/models", "/metrics", "/health"):
            self.assertEqual(server.request("GET", path)[0], 200, path)

    def test_seeded_answers_do_not_depend_on_the_batch(self):
        server = self.serve("--auth", "none")
        body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 40, "do_sample": True, "temperature": 1.0, "seed": 42}}
        alone = server.post("/generate", body)["generated_text"]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            others = [pool.submit(server.post, "/generate", {"inputs": f"Tell me {i}", "parameters": {"max_new_tokens": 30 + i, "do_sample": True}})
                      for i in range(16)]
            same = [pool.submit(server.post, "/generate", body) for _ in range(8)]
            self.assertEqual({f.result()["generated_text"] for f in same}, {alone})
            for other in others:
                other.result()
        different = server.post("/generate", {**body, "parameters": {**body["parameters"], "seed": 43}})["generated_text"]
        self.assertNotEqual(different, alone)

    def test_term_answers_what_was_accepted_and_refuses_what_comes_later(self):
        server = self.serve("--auth", "none", "--drain-seconds", "600")  # however busy the machine is
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(server.request, "POST", "/v1/completions",
                                   {"prompt": "Once upon a time", "max_tokens": 600, "ignore_eos": True, "temperature": 0}, timeout=600) for _ in range(8)]
            deadline = time.monotonic() + 60
            while self.running(server) < 8:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            for future in running:
                status, text = future.result()
                self.assertEqual(status, 200)
                self.assertEqual(json.loads(text)["usage"]["completion_tokens"], 600)
        self.assertEqual(server.process.wait(60), 0)
        self.assertIn("every accepted request was answered", server.text())

    def running(self, server):
        text = server.request("GET", "/metrics")[1]
        rows = [line.split() for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        return int(float(rows[0][-1])) if rows else 0

    def test_an_idle_server_uses_under_2_percent_of_a_core(self):
        server = self.serve()
        server.request("POST", "/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 5}})
        self.assert_idle([server.process.pid])

    def test_the_job_script_serves_without_slurm(self):
        program = self.folder / "release/bin/sluice"
        program.parent.mkdir(parents=True)
        program.symlink_to(harness.BINARY)
        environment = {**self.environment, "MODEL_ID": "tests/models/demo", "AUTH": "none", "RELEASE_DIR": str(program.parents[1])}
        server = harness.Server(self, ["bash", str(ROOT / "slurm/serve.sh")], environment)
        self.addCleanup(server.kill)
        reply = server.post("/generate", {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 3}})
        self.assertIn("Paris", reply["generated_text"])
        self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    harness.main()

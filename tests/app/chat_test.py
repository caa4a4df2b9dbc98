# SPDX-License-Identifier: Apache-2.0
"""sluice chat and sluice run: in a pipe, at a terminal with and without line editing, with a server."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import harness
from harness import BINARY, DEMO


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, case, *arguments, kind="xterm"):
        self.case, self.seen = case, b""
        self.parent, child = pty.openpty()
        # A terminal sends INT to the foreground group of the session that it controls.
        prepare = lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0)
        self.process = subprocess.Popen([BINARY, *arguments], stdin=child, stdout=child, stderr=child, preexec_fn=prepare,
                                        env={**case.environment, "TERM": kind, "LANG": "C"}, start_new_session=True)
        os.close(child)
        case.addCleanup(os.close, self.parent)
        case.addCleanup(self.process.wait)
        case.addCleanup(self.process.kill)

    def type(self, text):
        os.write(self.parent, text.encode())

    def expect(self, text, seconds=30):
        text, deadline = text.encode(), time.monotonic() + seconds
        while text not in self.seen:
            self.case.assertLess(time.monotonic(), deadline, self.seen.decode(errors="replace"))
            if select.select([self.parent], [], [], 0.1)[0]:
                self.seen += os.read(self.parent, 65536)
        at = self.seen.index(text)
        before, self.seen = self.seen[:at], self.seen[at + len(text):]
        return before.decode(errors="replace")

    def leave(self):
        self.type("/bye\r")
        self.case.assertEqual(self.process.wait(20), 0)


class Chat(harness.Case):
    def test_a_pipe_gets_answers_only(self):
        done = self.run_sluice("chat", DEMO, input="What is the capital of France?\nWhat is 3 plus 4?\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines(), ["The capital of France is Paris.", "3 + 4 = 7."])
        self.assertEqual(done.stderr, "")

    def test_what_is_no_answer_goes_to_standard_error_of_a_pipe(self):
        kept = self.folder / "kept.json"
        done = self.run_sluice("chat", DEMO, "--system", "Be brief.",
                               input=f'/nonsense\n"""What is the\ncapital of France?"""\n/set top_p 7\n/save {kept}\n/stats\n')
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stdout.splitlines()), 1, done.stdout)
        for part in ("/nonsense is no command", "top_p: expected a number from", "3 messages are in", "tokens/s"):
            self.assertIn(part, done.stderr)
        messages = json.loads(kept.read_text())["messages"]
        self.assertEqual([m["role"] for m in messages], ["system", "user", "assistant"])
        self.assertEqual(messages[1]["content"], "What is the\ncapital of France?")
        self.assertEqual(kept.stat().st_mode & 0o777, 0o600)
        done = self.run_sluice("chat", DEMO, input=f"/load {kept}\n/undo\n/undo\n/load {DEMO}/config.json\n/show\n")
        for part in ("3 messages from", "taken back: What is the", "nothing was asked", "no list of messages", "Be brief."):
            self.assertIn(part, done.stderr)

    def test_a_model_without_a_template_is_refused(self):
        done = self.run_sluice("chat", "null")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no chat template", done.stderr)

    def test_commands_and_interrupts_at_a_plain_terminal(self):
        t = Terminal(self, "chat", DEMO, "--max-new-tokens", "900", kind="dumb")
        t.expect(">>> ")
        t.type("/nonsense\n")
        t.expect("is no command")
        t.expect(">>> ")
        t.type("What is the opposite of hot?\n")
        self.assertNotIn("\033", t.expect("The opposite of hot is cold."))
        t.expect(">>> ")
        t.process.send_signal(signal.SIGINT)
        t.expect("Ctrl-C again")
        t.type("\004")
        self.assertEqual(t.process.wait(20), 0)

    def test_lines_are_edited_remembered_and_pasted(self):
        t = Terminal(self, "chat", DEMO)
        t.expect(">>> ")
        t.type("What is the opposite of hut?\x1b[D\x1b[D\x7fo\r")  # two to the left, one erased
        t.expect("The opposite of hot is cold.")
        t.expect(">>> ")
        t.type("\x1b[A\x1b[1~\x1b[4~\x15")  # what was typed before, then all of it erased again
        t.type("\x1b[200~über 日本 🙂\rtwo\x1b[201~\r")
        t.expect("I do not know")
        t.expect(">>> ")
        t.type("one\x1b\rtwo\r")
        t.expect("I do not know")
        t.expect(">>> ")
        t.type(f"/sa\t{self.folder}/kept.json\r")
        t.expect("messages are in")
        messages = json.loads((self.folder / "kept.json").read_text())["messages"]
        self.assertEqual([m["content"] for m in messages if m["role"] == "user"],
                         ["What is the opposite of hot?", "über 日本 🙂\ntwo", "one\ntwo"])
        t.expect(">>> ")
        t.type("\003")
        t.expect("Ctrl-C again")
        t.leave()
        history = self.folder / "home/chat_history"
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)
        self.assertEqual(history.read_text().count("opposite"), 1)
        t = Terminal(self, "chat", DEMO)
        t.expect(">>> ")
        t.type("\x12opposite\r")  # Ctrl-R, over the end of the program
        t.expect("The opposite of hot is cold.")
        t.leave()

    def test_ctrl_c_stops_the_answer_alone(self):
        # Slow enough to be still under way: a thousand steps and more of a few milliseconds.
        t = Terminal(self, "chat", "--random-init", "pythia-160m", "--chat-template", "chatml", "--max-new-tokens", "1900")
        t.expect(">>> ", 120)
        t.type("go\r")
        t.expect("\n")
        time.sleep(0.2)
        t.type("\003")
        t.expect("[stopped]")
        t.expect(">>> ")
        t.type("/stats\r")
        self.assertIn("2 messages, 1 answer:", t.expect(">>> "))
        t.leave()

    def test_a_server_answers_by_address_and_by_job(self):
        server = self.serve()
        key = server.start["key_file"]
        job = f"local-{server.process.pid}"
        done = self.run_sluice("chat", job, "--temperature", "0", input="What is 3 plus 4?\n/show\n")
        self.assertEqual((done.returncode, done.stdout), (0, "3 + 4 = 7.\n"), done.stderr)
        self.assertIn(f"model    {DEMO}", done.stderr)
        url = f"http://127.0.0.1:{server.port}"
        for address in (url, f"{url}/v1", f"127.0.0.1:{server.port}"):
            done = self.run_sluice("run", address, "--key-file", key, "--temperature", "0", "--verbose", "What is", "3 plus 4?")
            self.assertEqual((done.returncode, done.stdout), (0, "3 + 4 = 7.\n"), done.stderr)
            self.assertRegex(done.stderr, r"^\d+ tokens asked, \d+ answered")
        done = self.run_sluice("run", url, "hi")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--key-file", done.stderr)
        done = self.run_sluice("run", url, "--key-file", key, "--tp", "2", "hi")
        self.assertIn("--tp 2: it concerns a model in this process", done.stderr)
        done = self.run_sluice("run", url, "--key-file", key, "--model", "other", "hi")
        self.assertEqual(done.returncode, 2)
        self.assertIn("other", done.stderr)
        self.bench(url, key)
        self.assertEqual(server.terminate(), 0)
        self.a_server_that_dies()
        done = self.run_sluice("run", job, "hi")
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"job {job} is stopped", done.stderr)

    def a_server_that_dies(self):
        server = self.serve("--auth", "none", "--tokenizer", DEMO, "--chat-template", "chatml", model="null")
        t = Terminal(self, "chat", f"127.0.0.1:{server.port}", "--max-new-tokens", "8000")
        t.expect(">>> ")
        server.process.send_signal(signal.SIGSTOP)  # so that it is under way
        t.type("go\r")
        t.expect("\n")
        server.kill()
        t.expect("[")
        t.expect(">>> ")
        t.type("again\r")
        t.expect("cannot reach")
        t.leave()

    def bench(self, url, key):
        """bench serve on the same server: every dialect, a sweep, arrivals by chance, MariTalk's table."""
        for api in ("chat", "completions", "tgi", "triton", "ollama", "maritalk", "energon"):
            done = self.run_sluice("bench", "serve", "--url", url, "--key-file", key, "--api", api, "--requests", "3", "--seconds", "0",
                                   "--concurrency", "2", "--max-tokens", "8", "--prompt", "Once upon a time", "--json", self.folder / "b.json")
            self.assertEqual(done.returncode, 0, (api, done.stdout, done.stderr))
            level = json.loads((self.folder / "b.json").read_text())["levels"][0]
            self.assertEqual((level["finished"], level["failed"], level["e2e_s"]["count"]), (3, 0, 3), api)
            self.assertGreater(level["tokens"], 3, api)
        prompts = self.write_lines("prompts.jsonl", [{"messages": [{"role": "user", "content": "Hello"}]}, {"prompt": "What is 1 plus 1?"}])
        done = self.run_sluice("bench", "serve", "--url", url, "--key-file", key, "--rate", "20,40", "--requests", "8", "--seconds", "0",
                               "--prompts", prompts, "--max-tokens", "4", "--goodput", "ttft:30000", "--goodput", "e2e:0.001",
                               "--csv", self.folder / "b.csv", "--plot", self.folder / "b.svg")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"rate .*goodput/s\n\s+20 .* 0\.00\n\s+40 .* 0\.00\n")
        rows = (self.folder / "b.csv").read_text().splitlines()
        self.assertEqual((len(rows), rows[0].split(",")[:4]), (17, ["concurrency", "rate", "request", "start_s"]))
        self.assertTrue((self.folder / "b.svg").read_text().startswith("<svg "))
        done = self.run_sluice("bench", "serve", "--url", url, "--key-file", key, "--concurrency", "1,2", "--n-repeats", "2",
                               "--prompt-size", "60", "--max-tokens", "10", "--api", "completions", "--json", self.folder / "b.json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, re.compile(
            r"^ {12}generated_tps +total_tps +\n +mean +median +std +mean +median +std\nconcurrency +\n"
            r"1 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+\n2 .*\n\nSystem tokens\n +median +std\nconcurrency +\n1 .*\n2 .*\n"))
        found = json.loads((self.folder / "b.json").read_text())
        self.assertEqual([row["concurrency"] for row in found["maritalk"]], [1, 2])
        self.assertEqual(found["levels"][0]["prompt_tokens"] % 2, 0)
        self.assertLessEqual(found["levels"][0]["prompt_tokens"], 2 * 61)  # the beginning-of-text token besides
        done = self.run_sluice("bench", "serve", "--url", url, "--key-file", key, "--plot", "x.png")
        self.assertEqual(done.returncode, 2)
        self.assertIn(".svg", done.stderr)

    def test_one_prompt_one_answer(self):
        run = lambda *arguments, **more: self.run_sluice("run", DEMO, *arguments, **more)
        done = run("What is", "3 plus 4?", input="")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "3 + 4 = 7.\n", ""))
        done = run(input="What is 3 plus 4?\n")
        self.assertEqual(done.stdout, "3 + 4 = 7.\n")
        done = run("--raw", "--max-new-tokens", "30", "--stop", ".", "Once upon a time", input="")
        self.assertTrue(done.stdout.startswith(" there was"), done.stdout)
        self.assertNotIn(".", done.stdout)
        schema = self.folder / "schema.json"
        schema.write_text('{"type":"object","properties":{"sum":{"type":"integer"}},"required":["sum"]}')
        done = run("--format", schema, "--max-new-tokens", "60", "What is 3 plus 4?", input="")
        self.assertIsInstance(json.loads(done.stdout)["sum"], int)
        for arguments, says in (((), "expected a prompt"), (("--format", "/nowhere", "x"), "/nowhere"), (("--key-file", schema, "x"), "is no URL, job id or service"),
                                (("--raw", "--system", "x", "y"), "--system has no place")):
            done = run(*arguments, input="")
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn(says, done.stderr)
        with open("/dev/full", "w") as full:
            done = subprocess.run([BINARY, "run", DEMO, "What is 3 plus 4?"], env=self.environment, stdin=subprocess.DEVNULL, stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("cannot be written: No space", done.stderr)
        done = self.run_sluice("run", "http://127.0.0.1:9", "x", input="")
        self.assertEqual(done.returncode, 2)
        self.assertIn("cannot reach http://127.0.0.1:9", done.stderr)


if __name__ == "__main__":
    harness.main()

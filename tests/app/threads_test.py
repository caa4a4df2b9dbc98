# SPDX-License-Identifier: Apache-2.0
"""Whole servers under ThreadSanitizer: streams of every dialect, clients that leave, lag or are refused, TERM under load, ranks over TCP."""
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import time

import harness

CLIENTS = 12
TOKENS = 120
TEXT = "a word and another"
CHAT = [{"role": "user", "content": TEXT}]
ASKED = (
    ("/generate_stream", {"inputs": TEXT, "parameters": {"max_new_tokens": TOKENS, "top_n_tokens": 2}}),
    ("/generate", {"inputs": TEXT, "parameters": {"max_new_tokens": TOKENS, "details": True}}),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": TOKENS, "stream": True, "n": 2}),
    ("/v1/completions", {"prompt": [TEXT, TEXT + TEXT], "max_tokens": TOKENS, "stream": True, "logprobs": 1}),
    ("/v1/completions", {"prompt": TEXT, "max_tokens": TOKENS, "n": 3}),
    ("/api/chat", {"model": "null", "messages": CHAT, "options": {"num_predict": TOKENS}}),
    ("/v2/models/ensemble/generate_stream", {"text_input": TEXT, "max_tokens": TOKENS, "stream": True}),
    ("/generate_stream", {"inputs": TEXT, "parameters": {"max_new_tokens": -1}}),
    ("/metrics", None),
    ("/health", None),
)


class Threads(harness.Case):
    def setUp(self):
        super().setUp()
        ignored = self.folder / "ignored"
        # Not instrumented: a table that it makes once, behind a guard in its own code, looks unguarded.
        ignored.write_text("called_from_lib:libcpp-httplib.so\n")
        self.environment["TSAN_OPTIONS"] = f"{os.environ.get('TSAN_OPTIONS', '')} suppressions={ignored} log_path={self.folder}/report"
        self.addCleanup(self.no_reports)  # runs before the folder goes, and after servers have ended

    def no_reports(self):
        reports = "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("report*")))
        self.assertFalse(reports, reports)

    def ask(self, server, number):
        """One request: read to its end, left at once or after the first bytes, or read late."""
        path, body = ASKED[number % len(ASKED)]
        manner = number // len(ASKED) % 4
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        try:
            if manner == 2:
                connection.connect()
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            if manner == 0:
                return
            if manner == 2:
                time.sleep(0.3)
            reply = connection.getresponse()
            if manner == 1:
                reply.read(20)
                return
            text = reply.read()
            if reply.status not in (200, 422) or not (text or path == "/health"):
                raise AssertionError(f"request {number}: {path}: {reply.status} {text!r}")
        finally:
            connection.close()

    def load(self, server, *arguments):
        done = self.run_sluice("bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--max-tokens", "40", "--prompt", TEXT, *arguments, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(" 0 failed", done.stdout)

    def test_streams_aborted_clients_and_term_under_load(self):
        template = self.folder / "template.jinja"
        template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
        server = self.serve("--auth", "none", "--chat-template", template, "--request-log", self.folder / "requests", model="null")
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: self.ask(server, number), range(8 * 4 * len(ASKED))))
        for api in ("tgi", "chat"):
            self.load(server, "--api", api, "--concurrency", "32", "--requests", "200")

        def until_refused(number):
            try:
                while server.process.poll() is None:
                    self.ask(server, 3 * len(ASKED) + number % 7)
            except (OSError, http.client.HTTPException, AssertionError):
                pass  # the server drains, or is gone

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(until_refused, number) for number in range(CLIENTS)]
            time.sleep(1)
            self.assertEqual(server.terminate(), 0, server.text())
            for future in running:
                future.result()

    def test_two_ranks_over_tcp_under_load(self):
        for split in ("--tp", "--pp"):
            def rank(number):
                return {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(os.getpid()),
                        "TORCHELASTIC_RUN_ID": split.strip("-"), "SLUICE_COMM": "tcp"}

            arguments = ["--auth", "none", "--threads", "1", split, "2"]
            with open(self.folder / f"rank1{split}", "wb") as log:
                other = subprocess.Popen([harness.BINARY, "serve", "--model", harness.DEMO, *arguments], env={**self.environment, **rank(1)}, stdout=log, stderr=log)
            self.addCleanup(other.kill)
            server = self.serve(*arguments, environment=rank(0))
            self.assertIn('"transport":"tcp"', server.text())
            self.load(server, "--api", "tgi", "--concurrency", "8", "--requests", "24")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual((server.process.wait(60), other.wait(60)), (0, 0), server.text())


if __name__ == "__main__":
    harness.main()

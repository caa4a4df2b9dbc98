# SPDX-License-Identifier: Apache-2.0
"""Memory, file descriptors and threads after many mixed requests. Usage: leak_test.py [REQUESTS], default 20000."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import sys
import time

import harness

REQUESTS = int(sys.argv.pop(1)) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 20000
CLIENTS = 8
WARM_UP = 2000  # free lists and arenas reach their size; without it the growth is up to 1 % more
GROWTH = 0.02  # of resident memory, from a tenth of the requests to the last
TEXT = "a word and another " * 12


def request_of(chance):
    """(path, body as bytes, expected status). The answers of the null model are as long as asked for."""
    text, tokens, stream = TEXT[:chance.randrange(4, len(TEXT))], chance.randrange(1, 64), chance.random() < 0.5
    kind = chance.randrange(8)
    if kind == 0:
        body = b'{"inputs": "cut' if chance.random() < 0.5 else json.dumps({"inputs": text, "parameters": {"temperature": -1}}).encode()
        return chance.choice(("/generate", "/generate_stream")), body, (400, 422, "error")
    if kind == 1:
        return "/v1/chat/completions", json.dumps({"messages": "none", "stream": stream}).encode(), (400, 422)
    if kind in (2, 3):
        body = {"inputs": text, "parameters": {"max_new_tokens": tokens, "details": stream, "do_sample": kind == 3}}
        return ("/generate_stream" if stream else "/generate"), json.dumps(body).encode(), (200,)
    if kind in (4, 5):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream, "n": 1 + (kind == 5)}
        return "/v1/chat/completions", json.dumps(body).encode(), (200,)
    if kind == 6:
        return "/v1/completions", json.dumps({"prompt": text, "max_tokens": tokens, "stream": stream}).encode(), (200,)
    return "/tokenize", json.dumps({"inputs": text}).encode(), (200,)


class Leak(harness.Case):
    def send(self, port, seed):
        chance = random.Random(seed)
        path, body, expected = request_of(chance)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            if chance.random() < 0.1:  # gone at once, or after the first bytes
                if chance.random() < 0.5:
                    connection.getresponse().read(20)
                return "dropped"
            reply = connection.getresponse()
            text = reply.read()
            # TGI refuses a stream inside it.
            stream_error = reply.status == 200 and text.startswith(b'data: {"error"')
            if ("error" if stream_error else reply.status) not in expected:
                raise AssertionError(f"request {seed}: {path} {body!r}: {reply.status} {text!r}, expected {expected}")
            return "error" if stream_error else reply.status
        finally:
            connection.close()

    def resources(self, server):
        """Resident bytes, descriptors and threads."""
        process = pathlib.Path(f"/proc/{server.process.pid}")
        fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024, len(os.listdir(process / "fd")), int(fields["Threads"])

    def idle_resources(self, server, threads):
        """The same, once no request is left and the threads of the connections have gone home and their memory with them."""
        deadline = time.monotonic() + 20
        while True:
            metrics = server.request("GET", "/metrics")[1]
            busy = [line for line in metrics.splitlines() if line.startswith(("vllm:num_requests_", "sluice_cache_blocks_used")) and float(line.split()[-1]) > 0]
            if not busy:
                break
            self.assertLess(time.monotonic(), deadline, f"requests are left: {busy}")
            time.sleep(0.05)
        while self.resources(server)[2] > threads and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.resources(server)

    def test_memory_descriptors_and_threads_stay(self):
        template = self.folder / "template.jinja"
        template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
        server = self.serve("--auth", "none", "--prefix-cache", "false", "--chat-template", template, "--log-level", "warning", model="null")
        outcomes = {}
        _, descriptors, threads = self.resources(server)

        def send(numbers):
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                for outcome in pool.map(lambda seed: self.send(server.port, seed), numbers):
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

        send(range(-WARM_UP, 0))
        outcomes.clear()
        send(range(REQUESTS // 10))
        early = self.idle_resources(server, threads)[0]
        send(range(REQUESTS // 10, REQUESTS))
        late, descriptors_late, threads_late = self.idle_resources(server, threads)
        print(f"{REQUESTS} requests {outcomes}: {early / 1e6:.2f} MB after a tenth, {late / 1e6:.2f} MB at the end ({100 * (late / early - 1):+.2f} %); "
              f"descriptors {descriptors} and {descriptors_late}, threads {threads} and {threads_late}", flush=True)
        self.assertGreater(outcomes.get("dropped", 0), REQUESTS // 20)
        self.assertGreater(outcomes.get(200, 0), REQUESTS // 3)
        self.assertLessEqual(late, early * (1 + GROWTH))
        self.assertLessEqual(descriptors_late, descriptors)
        self.assertLessEqual(threads_late, threads)


if __name__ == "__main__":
    harness.main()

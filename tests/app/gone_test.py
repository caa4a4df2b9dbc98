# SPDX-License-Identifier: Apache-2.0
"""A client that goes away gives its cache blocks back at once, streamed or not."""
import http.client
import json
import statistics
import time

import harness

TRIES = 7
BOUND = 1.0  # seconds; generous, because the machine may be busy: the median that is printed is the figure
CHAT = [{"role": "user", "content": "Tell me a story."}]
# TGI's routes cannot ask the demo model to go on after its end token; random weights do.
ROUTES = {
    ("--model", harness.DEMO): (
        ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True}),
        ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 900, "ignore_eos": True}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 900, "ignore_eos": True, "stream": True}),
    ),
    ("--random-init", "llama-tiny"): (
        ("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 2000}}),
        ("/generate_stream", {"inputs": "Once", "parameters": {"max_new_tokens": 2000}}),
    ),
}


class Gone(harness.Case):
    def figures(self, server):
        rows = (line.rsplit(" ", 1) for line in server.request("GET", "/metrics")[1].splitlines() if not line.startswith("#"))
        found = {name.split("{")[0]: float(value) for name, value in rows}
        return found["sluice_cache_blocks_used"], found["vllm:num_requests_running"], found["sluice_requests_cancelled_total"]

    def until(self, server, holds, why):
        deadline = time.monotonic() + 60
        while not holds(figures := self.figures(server)):
            self.assertLess(time.monotonic(), deadline, f"{why}: blocks, running, cancelled are {figures}")
            time.sleep(0.002)

    def leave(self, server, path, body):
        """Seconds from the client's end to the last freed block."""
        cancelled = self.figures(server)[2]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        self.until(server, lambda f: f[0] > 0 and f[1] > 0, f"{path} did not start")
        connection.close()
        left = time.monotonic()
        self.until(server, lambda f: f[0] == 0 and f[1] == 0, f"{path}: the blocks were not freed")
        seconds = time.monotonic() - left
        self.assertEqual(self.figures(server)[2], cancelled + 1, f"{path} finished before its client left")
        return seconds

    def test_a_client_that_goes_away_frees_its_blocks(self):
        for model, routes in ROUTES.items():
            server = harness.Server(self, [harness.BINARY, "serve", *model, "--auth", "none", "--prefix-cache", "false", "--threads", "1"], self.environment)
            self.addCleanup(server.kill)
            self.assertEqual(self.figures(server)[:2], (0, 0))
            for path, body in routes:
                seconds = [self.leave(server, path, body) for _ in range(TRIES)]
                kind = "streamed" if body.get("stream") or path.endswith("_stream") else "whole"
                print(f"{path}, {kind}: freed after {1000 * statistics.median(seconds):.1f} ms (median of {TRIES}, "
                      f"longest {1000 * max(seconds):.1f} ms)", flush=True)
                self.assertLess(statistics.median(seconds), BOUND)
            self.assertEqual(server.terminate(), 0)


if __name__ == "__main__":
    harness.main()

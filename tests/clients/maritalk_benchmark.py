# SPDX-License-Identifier: Apache-2.0
"""MariTalk's own benchmark, the unmodified script of its source distribution, against this build's server; then
`sluice bench serve`, which has to print a table of the same form."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

from maritalk import MariTalkLocal

from checks import check

SCRIPT = pathlib.Path(__file__).parents[2] / "build/clients/maritalk/examples/local/benchmark.py"
LEVELS, REPEATS, TOKENS = [1, 2], 2, 150


def arguments(*more):
    return ["--concurrency", ",".join(map(str, LEVELS)), "--n-repeats", str(REPEATS), "--prompt-size", "100", "--max-tokens", str(TOKENS), *more]


def form(table):
    """Words and places of numbers; widths differ with the numbers."""
    return [re.sub(r"[\d.]+|NaN", "0", " ".join(line.split())) for line in table.splitlines()]


def run(binary, tokenizer):
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        # The null model answers with as many tokens as asked for: the script leaves out answers of fewer than 100.
        server = subprocess.Popen([binary, "serve", "--model", "null", "--tokenizer", tokenizer, "--auth", "none", "--host", "127.0.0.1", "--port", str(port)],
                                  env={**os.environ, "SLUICE_HOME": f"{name}/home"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            client = MariTalkLocal(port=port)
            for _ in range(600):
                try:
                    client.status()
                    break
                except Exception:
                    time.sleep(0.1)
            runner = pathlib.Path(name, "run.py")  # the script has no option for the port
            runner.write_text("import runpy, sys, maritalk\n"
                              f"maritalk.MariTalkLocal.__init__.__defaults__ = ('localhost', {port})\n"
                              f"sys.argv = ['benchmark.py'] + {arguments('--tokenizer', str(tokenizer))!r}\n"
                              f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n")
            theirs = subprocess.run([sys.executable, runner], cwd=name, capture_output=True, text=True, timeout=120,
                                    env={**os.environ, "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"})
            check("maritalk: its benchmark script", theirs.returncode == 0 and "System tokens" in theirs.stdout, (theirs.stdout, theirs.stderr))
            rows = pathlib.Path(name, "benchmark.csv").read_text().splitlines()[1:] if theirs.returncode == 0 else []
            check("maritalk: its benchmark leaves no answer out", len(rows) == REPEATS * sum(LEVELS), rows)
            ours = subprocess.run([binary, "bench", "serve", "--url", f"http://127.0.0.1:{port}", "--api", "maritalk", "--no-health",
                                   *arguments("--tokenizer", str(tokenizer))], capture_output=True, text=True, timeout=120,
                                  env={**os.environ, "SLUICE_HOME": f"{name}/home"})
            expected = form(theirs.stdout)
            check("maritalk: bench serve prints the same table", len(expected) > 9 and form(ours.stdout)[:len(expected)] == expected, (theirs.stdout, ours.stdout, ours.stderr))
        finally:
            server.terminate()
            server.wait(30)

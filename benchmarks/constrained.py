# SPDX-License-Identifier: Apache-2.0
"""Says what constrained output costs per token, one request at a time: a constrained answer, then a free one of as many
tokens, in turn.

    constrained.py [--sluice build/cpu/sluice] [--model tests/models/demo] [--pairs 40]

Prints medians and quartiles of the pairs' ratios, of wall time and of the whole server's CPU time.
"""
import argparse
import json
import pathlib
import statistics
import tempfile
import time
import urllib.request

from around_model import ROOT, start

PERSON = {"type": "object", "properties": {
    "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "mail": {"type": "string", "format": "email"},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 3}}, "required": ["name", "age", "tags"]}
GRAMMARS = {"a person": {"guided_json": PERSON}, "a list of strings": {"guided_json": {"type": "array", "items": {"type": "string"}, "minItems": 40}},
            "300 optional names": {"guided_json": {"type": "object", "minProperties": 30, "properties": {f"name{i}": {"type": "integer"} for i in range(300)}}},
            "a regular expression": {"guided_regex": "[a-z ]{200,400}\\."}, "any JSON object": {"response_format": {"type": "json_object"}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=str(ROOT / "build/cpu/sluice"))
    parser.add_argument("--model", default=str(ROOT / "tests/models/demo"))
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    args.streams = 1
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(args, pathlib.Path(folder))

        def cpu():
            tasks = list(pathlib.Path(f"/proc/{server.pid}/task").iterdir())
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e3

        def ask(**fields):
            """Tokens, and microseconds per token of wall and CPU time."""
            body = json.dumps({"prompt": "Once upon a time", "temperature": 1.0, **fields}).encode()
            before, begin = cpu(), time.perf_counter()
            with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})) as reply:
                n = json.load(reply)["usage"]["completion_tokens"]
            return n, (time.perf_counter() - begin) * 1e6 / n, (cpu() - before) / n

        try:
            for name, grammar in GRAMMARS.items():
                rows = []
                for seed in range(args.pairs + 1):
                    n, *bound = ask(seed=seed, max_tokens=300, **grammar)
                    rows.append((n, *bound, *ask(seed=seed, max_tokens=n, ignore_eos=True)[1:]))
                rows = rows[1:]  # the first has compiled the grammar
                print(f"{name}: {sum(r[0] for r in rows)} tokens", end="")
                for kind, i in ("wall", 1), ("CPU", 2):
                    low, middle, high = statistics.quantiles([r[i] / r[i + 2] for r in rows], n=4)
                    print(f"; {kind} {statistics.median(r[i] for r in rows):.0f} us, free {statistics.median(r[i + 2] for r in rows):.0f}, "
                          f"ratio {middle:.3f} ({low:.3f} to {high:.3f})", end="")
                print()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()

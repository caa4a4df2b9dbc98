# SPDX-License-Identifier: Apache-2.0
"""Compares `sluice serve` with the server of llama-cpp-python over HTTP: `sluice bench serve` on both in turn.

Random weights of one shape, the same number of threads, one token per byte in both, so that the same prompts have the same
length. The server of llama-cpp-python answers one request at a time; above one stream the others wait there.
benchmarks/llama_cpp_server.sh makes the environment and calls this file.

    llama_cpp_server.py --sluice build/cpu/sluice [--shape tinyllama-1.1b] [--pairs 3] [--threads 2] [--concurrency 1 4]
                        [--prompt-size 200] [--max-tokens 64] [--work FOLDER] [--json FILE]
"""
import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from common import read_shape, write_byte_tokenizer

HERE = pathlib.Path(__file__).resolve().parent


def gguf_writer():
    """benchmarks/llama_cpp.py under another name than the package's."""
    spec = importlib.util.spec_from_file_location("shapes", HERE / "llama_cpp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def running(command, port, log, environment):
    with open(log, "wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).read()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command[0]} does not serve:\n" + pathlib.Path(log).read_text()[-2000:])
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def measure(args, url, first):
    report = pathlib.Path(args.work) / "serve.json"
    found = {}
    for streams in args.concurrency:
        command = [args.sluice, "bench", "serve", "--url", url, "--api", "completions", "--concurrency", str(streams), "--requests", str(args.requests * streams),
                   "--seconds", "0", "--prompt", prompt(args.prompt_size, first), "--max-tokens", str(args.max_tokens), "--no-health", "--json", str(report)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"bench serve failed on {url}:\n{done.stdout}{done.stderr}")
        level = json.loads(report.read_text())["levels"][0]
        found[streams] = {"tokens_per_s": level["tokens_per_s"], "ttft": level["ttft_s"]["p50"], "tpot": level["tpot_s"]["p50"],
                          "tokens": level["tokens"]}
    return found


def prompt(size, first):
    """Different for every pair from its first byte on."""
    text = f"{first} " + "the quick brown fox jumps over the lazy dog " * (size // 44 + 1)
    return text[:size]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--shape", default="tinyllama-1.1b")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=2, help="per stream")
    parser.add_argument("--prompt-size", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--work", default="/tmp/sluice-llama-cpp", help="folder for the GGUF file, kept between runs")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{args.shape}.bytes.bf16.gguf"
    module = gguf_writer()
    shape = read_shape(args.sluice, args.shape)
    write_byte_tokenizer(work / "tokenizer", shape["vocab"])
    if not path.exists():
        module.write_gguf(path.with_suffix(".part"), shape, "bf16", vocabulary=True)
        path.with_suffix(".part").rename(path)
    environment = {**os.environ, "SLUICE_HOME": str(work / "home")}
    (work / "home").mkdir(mode=0o700, exist_ok=True)
    pairs = []
    for pair in range(args.pairs):
        port = free_port()
        ours = [args.sluice, "serve", "--random-init", args.shape, "--dtype", "bf16", "--tokenizer", str(work / "tokenizer"), "--threads", str(args.threads), "--auth", "none",
                "--host", "127.0.0.1", "--port", str(port), "--prefix-cache", "false", "--max-total-tokens", "2048"]
        with running(ours, port, work / "sluice.log", environment) as url:
            first = measure(args, url, pair)
        port = free_port()
        theirs = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--n_threads", str(args.threads), "--n_threads_batch", str(args.threads),
                  "--n_ctx", "2048", "--host", "127.0.0.1", "--port", str(port), "--interrupt_requests", "False"]
        with running(theirs, port, work / "llama_cpp.log", environment) as url:
            pairs.append((first, measure(args, url, pair)))
    results = {}
    for streams in args.concurrency:
        for what, better in (("tokens_per_s", 1), ("ttft", -1), ("tpot", -1)):
            values = [(ours[streams][what], theirs[streams][what]) for ours, theirs in pairs]
            mine, peer = (statistics.median(v) for v in zip(*values))
            ratio = statistics.median((o / t) ** better for o, t in values)
            unit = "tokens/s" if better == 1 else "s"
            print(f"{streams} streams  {what:12}  sluice {mine:9.3f}  llama-cpp-python {peer:9.3f} {unit:8}  ratio {ratio:5.2f}", flush=True)
            results[f"{streams} {what}"] = {"sluice": mine, "llama-cpp-python": peer, "ratio": ratio, "pairs": values}
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Says where the CPU time of a server goes per generated token, by thread and, where perf may run, by function.

    around_model.py [--sluice build/cpu/sluice] [--model tests/models/demo] [--streams 64] [--seconds 20] [--api tgi]
                    [--max-tokens 200] [--prompt TEXT] [--functions 12]

Starts `sluice serve` with one compute thread, so that the executor's thread alone computes, and loads it with `sluice bench
serve`. Times are those of /proc and of the kernel's own clock, not of the wall.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=str(ROOT / "build/cpu/sluice"))
    parser.add_argument("--model", default=str(ROOT / "tests/models/demo"))
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--api", default="tgi")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--functions", type=int, default=12, help="lines per thread of perf's report")
    return parser.parse_args()


def start(args, folder):
    log = folder / "log"
    with open(log, "wb") as out:
        server = subprocess.Popen([args.sluice, "serve", "--model", args.model, "--auth", "none", "--max-batch-size", str(args.streams),
                                   "--max-concurrent-requests", str(2 * args.streams)], stdout=out, stderr=out,
                                  env={**os.environ, "SLUICE_HOME": str(folder), "SLUICE_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (found := re.search(r'^\{"event":"start".*\}$', log.read_text(), re.M)):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("the server did not start:\n" + log.read_text())
        time.sleep(0.1)
    return server, f"http://127.0.0.1:{json.loads(found.group(0))['port']}"


def by_thread(pid):
    """CPU seconds by thread name; "ended" is the time of threads that are gone."""
    found = collections.defaultdict(float)
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            found[(task / "comm").read_text().strip()] += int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue
    ticks = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    found["ended"] = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") - sum(found.values())
    return found


def tokens(url):
    text = urllib.request.urlopen(url + "/metrics", timeout=10).read().decode()
    return float(re.search(r"^vllm:generation_tokens_total(?:\{.*\})? (\S+)$", text, re.M).group(1))


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="sluice-around-") as name:
        folder = pathlib.Path(name)
        server, url = start(args, folder)
        try:
            load = subprocess.Popen([args.sluice, "bench", "serve", "--url", url, "--api", args.api, "--concurrency", str(args.streams), "--seconds",
                                     str(args.seconds + 6), "--max-tokens", str(args.max_tokens), "--prompt", args.prompt, "--no-health"], stdout=subprocess.DEVNULL)
            time.sleep(3)
            before, tokens_before, began = by_thread(server.pid), tokens(url), time.monotonic()
            sampler = None
            if shutil.which("perf"):
                sampler = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g", "-p", str(server.pid), "-o", str(folder / "perf"), "--", "sleep",
                                            str(args.seconds)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(args.seconds)
            after, n, seconds = by_thread(server.pid), tokens(url) - tokens_before, time.monotonic() - began
            if load.wait(args.seconds + 120) != 0:
                sys.exit("the load ended with an error")
            report(before, after, n, seconds)
            if sampler and sampler.wait(60) == 0:
                functions(folder / "perf", args, before, after, n)
            else:
                print("no functions: perf is not here or may not run")
        finally:
            server.terminate()
            server.wait(60)


def spent(before, after, name, n):
    """Microseconds per token."""
    return 1e6 * (after[name] - before.get(name, 0.0)) / n


def report(before, after, n, seconds):
    print(f"{n:.0f} tokens in {seconds:.1f} s, {n / seconds:.0f} tokens/s; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(f"{'thread':<16} {'us/token':>9}")
    for name in sorted(after, key=lambda name: -spent(before, after, name, n)):
        if spent(before, after, name, n) >= 0.05:
            print(f"{name:<16} {spent(before, after, name, n):9.2f}")
    print(f"{'all':<16} {sum(spent(before, after, name, n) for name in after):9.2f}")


def place_of(stack):
    """What a sample is counted as: the system call that it is in, else the function."""
    for line in stack:
        if found := re.search(r" __(?:x64|arm64)_sys_(\w+)", line):
            return "system: " + found.group(1)
    top = re.match(r"\s*[0-9a-f]+ (.*) \(([^()]*)\)$", stack[0])
    if not top:
        return "unknown"
    if top.group(2).startswith("["):
        return "system: switches and faults"
    name = re.sub(r"\(anonymous namespace\)::|^.* (?=[\w:~]+\()", "", top.group(1))
    return re.split(r"[(<]", name)[0] or name[:60]


def functions(data, args, before, after, n):
    """perf's shares of each thread's time, as microseconds per token."""
    text = subprocess.run(["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"], capture_output=True, text=True, check=True).stdout
    counts = collections.defaultdict(collections.Counter)
    for sample in text.split("\n\n"):
        thread, *stack = [line for line in sample.splitlines() if line.strip()] or [""]
        if stack:
            counts[thread.strip()][place_of(stack)] += 1
    all_samples = sum(places.total() for places in counts.values())
    used = sum(spent(before, after, name, n) for name in after)
    for thread, places in sorted(counts.items(), key=lambda item: -item[1].total()):
        if used * places.total() / all_samples < 0.05:
            continue
        print(f"\n{thread}, {used * places.total() / all_samples:.2f} us/token")
        for place, count in places.most_common(args.functions):
            print(f"  {used * count / all_samples:7.3f}  {place}")


if __name__ == "__main__":
    main()

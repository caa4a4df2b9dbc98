# SPDX-License-Identifier: Apache-2.0
"""Seconds to fetch one large file from a hub on loopback, by sluice download, by curl, and by curl until the bytes are on the disk, in random order.
Each runs twice in a row: the first finds free memory as another program left it, which in a virtual machine may be its host's
again and slow to come back; the second finds its own.
Usage: download.py SLUICE [BYTES [RUNS]]; it needs twice BYTES in TMPDIR, gone at the end."""
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/hub"))
from hub_server import Hub, Repo  # noqa: E402


def timed(command, environment):
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main():
    binary, size, runs = sys.argv[1], int(float((sys.argv[2:] or ["1e9"])[0])), int((sys.argv[3:] or ["5"])[0])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-download-"))
    try:
        big = folder / "big"
        with open(big, "wb") as stream:
            for _ in range(0, size, 1 << 20):
                stream.write(os.urandom(min(1 << 20, size - stream.tell())))
        repo = Repo({"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": str(big)})
        repo.digest("model.safetensors")
        seconds = {}
        with Hub({"org/model": repo}) as hub:
            environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "no_proxy": "*"}
            url = f"{hub.url}/org/model/resolve/main/model.safetensors"
            fetched = str(folder / "curl")
            commands = [("sluice", [binary, "download", "org/model"]), ("curl", ["curl", "-sfL", "-o", fetched, url]),
                        ("curl and sync", ["sh", "-c", 'curl -sfL -o "$0" "$1" && sync "$0"', fetched, url])]
            for _ in range(runs):
                for name, command in random.sample(commands, len(commands)):
                    for turn in ("first", "second"):
                        seconds.setdefault((name, turn), []).append(timed(command, environment))
                        shutil.rmtree(folder / "hf", ignore_errors=True)
                        pathlib.Path(fetched).unlink(missing_ok=True)
                        subprocess.run(["sync", "-f", str(folder)], check=True)
        for (name, turn), values in sorted(seconds.items()):
            print(f"{name:<14} {turn:<7} {size / statistics.median(values) / 1e6:7.0f} MB/s (median of {runs}; {', '.join(f'{v:.2f}' for v in values)} s)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

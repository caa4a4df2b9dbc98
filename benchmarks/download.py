# SPDX-License-Identifier: Apache-2.0
"""Seconds to fetch one large file from a hub on loopback, by sluice download and by curl, in turns.
Usage: download.py SLUICE [BYTES [RUNS]]; it needs twice BYTES in TMPDIR, gone at the end."""
import os
import pathlib
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
        seconds = {"sluice": [], "curl": []}
        with Hub({"org/model": repo}) as hub:
            environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "no_proxy": "*"}
            url = f"{hub.url}/org/model/resolve/main/model.safetensors"
            for _ in range(runs):
                seconds["sluice"].append(timed([binary, "download", "org/model"], environment))
                shutil.rmtree(folder / "hf")
                seconds["curl"].append(timed(["curl", "-sfL", "-o", str(folder / "curl"), url], environment))
                (folder / "curl").unlink()
        for name, values in seconds.items():
            print(f"{name:<7} {size / statistics.median(values) / 1e6:7.0f} MB/s (median of {runs}; {', '.join(f'{v:.2f}' for v in values)} s)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

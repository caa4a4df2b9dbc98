# SPDX-License-Identifier: Apache-2.0
"""Runs the sluice binary for the end-to-end tests: a private home, servers that always end, HTTP without libraries."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ["SLUICE_BINARY"]
DEMO = str(ROOT / "tests/models/demo")
TWELVE_HEADS = str(ROOT / "tests/golden/gpt2/twelve_heads")
GOLDEN = json.loads((ROOT / "tests/models/demo_golden.json").read_text())


class Case(unittest.TestCase):
    """A test with its own folder and $SLUICE_HOME, and without settings from the caller's environment."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-app-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        keep = ("PATH", "HOME", "LD_LIBRARY_PATH", "LANG", "SLUICE_CPU_ISA", "ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS")
        self.environment = {k: v for k, v in os.environ.items() if k in keep}
        # Threads that wait for each other crawl where the machine has other things to do; tests of them ask for more.
        self.environment.update(SLUICE_HOME=str(self.folder / "home"), SLUICE_THREADS="1")

    def run_sluice(self, *arguments, timeout=280, environment=None, **kwargs):
        env = {**self.environment, **(environment or {})}
        return subprocess.run([BINARY, *map(str, arguments)], env=env, timeout=timeout, capture_output=True, text=True,
                              **kwargs)

    def write_lines(self, name, values):
        path = self.folder / name
        path.write_text("".join(json.dumps(v) + "\n" for v in values))
        return path

    def read_lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def serve(self, *arguments, launcher=(), environment=None, model=DEMO):
        server = Server(self, list(launcher) + [BINARY, "serve", "--model", model, *map(str, arguments)],
                        {**self.environment, **(environment or {})})
        self.addCleanup(server.kill)
        return server


    def assert_idle(self, pids):
        """No process takes 2 % of a core, in one of a few spells: the first may still see the last answer's end."""
        def spent(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        for spell in range(4):
            time.sleep(1)
            before = {pid: spent(pid) for pid in pids}
            time.sleep(5)
            busy = max(spent(pid) - before[pid] for pid in before)
            if busy < 0.02 * 5:
                return
        self.fail(f"{busy:.2f} s of CPU in 5 s without a request")


class Server:
    """A serving process. Its log is followed until the start line says where it listens."""

    def __init__(self, case, command, environment):
        self.log_path = case.folder / f"log-{time.monotonic_ns()}"
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True,
                                        cwd=ROOT)
        deadline = time.monotonic() + 240
        self.start = None
        while self.start is None:
            match = re.search(r'^\{"event":"start".*\}$', self.text(), re.M)
            if match:
                self.start = json.loads(match.group(0))
            elif self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.text()}")
            else:
                time.sleep(0.05)
        self.port = self.start["port"]
        self.key = pathlib.Path(self.start["key_file"]).read_text().strip() if self.start["key_file"] else None

    def text(self):
        return self.log_path.read_text(errors="replace")

    def request(self, method, path, body=None, key=True, timeout=240, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        head = dict(headers or {})
        if key and self.key:
            head["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            head.setdefault("Content-Type", "application/json")
        connection.request(method, path, json.dumps(body) if body is not None else None, head)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        return reply.status, data.decode()

    def post(self, path, body, **kwargs):
        status, text = self.request("POST", path, body, **kwargs)
        if status != 200:
            raise AssertionError(f"{path}: {status} {text}")
        return json.loads(text)

    def events(self, path, body):
        status, text = self.request("POST", path, body)
        if status != 200:
            raise AssertionError(f"{path}: {status} {text}")
        return [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]

    def terminate(self, timeout=120):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        end_session(self.process)
        self.log.close()


def end_session(process):
    """Kills what a process that leads a session has started and left, and waits until it is gone. Ranks of mpirun are in process groups of
    their own and outlive it when it is killed; its session holds them."""
    def members():
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:  # gone meanwhile
                continue
            if int(session) == process.pid and state not in "ZX":
                yield int(stat.parent.name)

    deadline = time.monotonic() + 60
    while left := list(members()):
        if time.monotonic() > deadline:
            raise AssertionError(f"processes {left} do not end")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    process.wait(60)


def run(command, *, environment, timeout, cwd=None):
    """As subprocess.run with text captured; however it ends, nothing of it is left."""
    process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, cwd=cwd)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end_session(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# MPI libraries keep what they allocate.
NO_LEAKS = {"ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=0"}


def mpirun(n):
    command = ["env", *(f"{name}={value}" for name, value in NO_LEAKS.items()), "mpirun", "-n", str(n), "--oversubscribe"]
    return command + (["--allow-run-as-root"] if os.geteuid() == 0 else [])


def chat_answers():
    """(messages, answer) of the reference answers."""
    return [(case["messages"], case["text"]) for case in GOLDEN["chat"]]


def main():
    if not pathlib.Path(BINARY).exists():
        raise SystemExit(f"{BINARY} is not built")
    unittest.main(verbosity=2)

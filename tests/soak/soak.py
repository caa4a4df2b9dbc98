# SPDX-License-Identifier: Apache-2.0
"""One random scenario per seed against ranks on this machine. See scripts/soak.sh."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "app"))
import harness  # noqa: E402
from harness import BINARY, DEMO, mpirun  # noqa: E402

LAYOUTS = ((1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (1, 3))  # (tp, pp)
PATIENCE = float(os.environ.get("SOAK_PATIENCE", "1"))
ATTEMPT_SECONDS = 90 * PATIENCE
ANSWER_SECONDS = 60 * PATIENCE
LEAVE_SECONDS = 25 * PATIENCE  # the other ranks leave after a rank died or fell silent
DISTURBANCES = 5


class Scenario(harness.Case):
    def __init__(self, seed, array=False):
        super().__init__("run_seed")
        self.chance = random.Random(seed)
        self.name = "array" if array else self.chance.choice(("kill", "kill", "kill", "disk", "drop", "term", "silence"))
        layouts = [(tp, pp) for tp, pp in LAYOUTS if shutil.which("mpirun") or tp * pp == 1]
        if self.name == "silence" and len(layouts) > 2:
            layouts = layouts[2:]
        self.tp, self.pp = (1, 1) if array else self.chance.choice(layouts)
        self.model = self.chance.choice((DEMO, DEMO, "null"))
        self.note = ""

    def describe(self):
        return f"{self.name}, {'demo' if self.model == DEMO else 'null'}, tp {self.tp}, pp {self.pp}{self.note}"

    def run_seed(self):
        self.addCleanup(self.end_all)
        getattr(self, self.name)()

    # Ranks

    def ranks(self):
        """Process ids by rank."""
        found = {}
        mark = f"SLUICE_HOME={self.environment['SLUICE_HOME']}".encode()
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                entries = path.read_bytes().split(b"\0")
                command = (path.parent / "cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if mark in entries and command == BINARY:
                rank = [e.split(b"=")[1] for e in entries if e.startswith(b"OMPI_COMM_WORLD_RANK=")]
                found[int(rank[0]) if rank else 0] = int(path.parent.name)
        return found

    def signal(self, pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def end_all(self):
        for pid in self.ranks().values():
            self.signal(pid, signal.SIGKILL)

    def until_gone(self, pids, why):
        deadline = time.monotonic() + LEAVE_SECONDS
        while left := [p for p in pids if self.alive(p)]:
            self.assertLess(time.monotonic(), deadline, f"{why}: processes {left} are still there")
            time.sleep(0.05)

    def alive(self, pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    # Offline generation

    def write_prompts(self, count):
        lines = []
        for i in range(count):
            line = {"prompt": f"Once upon a time there was a fox number {i}", "max_tokens": self.chance.randrange(1, 40), "id": f"p{i}"}
            if self.chance.random() < 0.5:
                line["temperature"] = 0.8
            lines.append({"prompt": 5} if self.chance.random() < 0.01 else line)
        self.prompts = self.write_lines("in.jsonl", lines)
        self.count = count
        self.good = 4 if {"prompt": 5} in lines else 0  # the exit code when all is answered

    def command(self, output, tp, pp, batch):
        return [*(mpirun(tp * pp) if tp * pp > 1 else []), BINARY, "generate", "--model", self.model, "--prompts", str(self.prompts), "--output", str(output),
                *self.layout(tp, pp), "--max-batch-size", str(batch)]

    def layout(self, tp, pp):
        return [] if self.model == "null" else ["--tp", str(tp), "--pp", str(pp)]

    def start(self, output, **kwargs):
        batch = self.chance.choice((1, 5, 32))
        self.log = self.folder / "generate.log"
        with open(self.log, "ab") as log:
            process = subprocess.Popen(self.command(output, self.tp, self.pp, batch), env=self.environment, stdout=log, stderr=log, start_new_session=True, **kwargs)

        self.addCleanup(harness.end_session, process)
        return process

    def log_text(self):
        return self.log.read_text(errors="replace")[-2000:]

    def undisturbed(self):
        """The expected bytes: one pipeline stage, in one piece."""
        whole = self.folder / "whole.jsonl"
        started = time.monotonic()
        done = harness.run(self.command(whole, self.tp, 1, 32), environment=self.environment, timeout=ATTEMPT_SECONDS)
        self.assertEqual(done.returncode, self.good, done.stderr)
        self.seconds = time.monotonic() - started
        return whole.read_bytes()

    def complete(self, output, expected):
        """Runs once more, undisturbed, and compares."""
        if not output.exists():
            self.assertEqual(self.start(output).wait(ATTEMPT_SECONDS), self.good, self.log_text())
        indices = [json.loads(line)["index"] for line in output.read_text().splitlines()]
        self.assertEqual(indices, list(range(self.count)), "prompts were lost, doubled or reordered")
        self.assertEqual(output.read_bytes(), expected, "the answers differ from an undisturbed run")
        for rest in (".journal", ".shared", ".tmp"):
            self.assertFalse(pathlib.Path(f"{output}{rest}").exists(), f"{rest} was left behind")

    def kill(self):
        self.write_prompts(self.chance.randrange(100, 400) if self.model == DEMO else self.chance.randrange(3000, 12000))
        expected, output, hits = self.undisturbed(), self.folder / "out.jsonl", []
        for _ in range(DISTURBANCES):
            if output.exists():
                break
            process = self.start(output)
            number, everyone = self.chance.choice((signal.SIGKILL, signal.SIGTERM)), self.chance.random() < 0.3
            victim, moment = self.chance.randrange(self.tp * self.pp), self.seconds * self.chance.uniform(0.1, 1.1)
            try:
                self.assertEqual(process.wait(moment), self.good, self.log_text())
            except subprocess.TimeoutExpired:
                ranks = self.ranks()
                for rank, pid in ranks.items():
                    if everyone or rank == victim:
                        self.signal(pid, number)
                        hits.append(f"{number.name[3:]} {rank}")
                try:
                    process.wait(LEAVE_SECONDS)
                except subprocess.TimeoutExpired:
                    if process.poll() is None and not self.ranks():
                        # Open MPI 4.1's mpirun may wait for ever for a rank that was killed while it connected to it.
                        self.assertIn("UNREACHABLE", self.log_text(), "mpirun stays and no rank is left")
                        process.kill()
                        process.wait()
                        hits[-1] += " (mpirun stayed)"
                        continue
                    # TERM is for rank 0, which tells the others; another rank may go on with its work.
                    self.assertTrue(number == signal.SIGTERM and not everyone and victim != 0, f"the ranks did not end after {hits[-1:]}\n{self.log_text()}")
                    self.assertEqual(process.wait(ATTEMPT_SECONDS), self.good, self.log_text())
                self.until_gone(ranks.values(), f"after {hits[-1:]}")
        self.note = f", hit: {', '.join(hits) or 'nothing'}"
        self.complete(output, expected)

    def disk(self):
        self.write_prompts(self.chance.randrange(150, 400))
        expected = self.undisturbed()
        room = max(4096, int(len(expected) * self.chance.uniform(0.1, 0.8)) // 4096 * 4096)
        small = self.folder / "small"
        small.mkdir()
        output = small / "out.jsonl"
        mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", str(small)], stderr=subprocess.DEVNULL).returncode == 0
        self.note = f", {room} bytes of {len(expected)}, {'tmpfs' if mounted else 'RLIMIT_FSIZE'}"
        if mounted:
            self.addCleanup(subprocess.run, ["umount", "-l", str(small)])
            process = self.start(output)
        else:
            self.log = self.folder / "generate.log"
            process = self.start(output, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
        code = process.wait(ATTEMPT_SECONDS)
        self.assertNotEqual(code, 0, "the disk was full and the run said it was complete")
        self.assertFalse(output.exists())
        if mounted:
            self.assertIn("free some space and run the same command again", self.log_text())
            subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        self.assertGreater((small / "out.jsonl.journal").stat().st_size, 0)
        self.complete(output, expected)

    # A job array whose tasks are killed, stopped, requeued, cancelled and added to, under a squeue that tells the truth.

    def start_task(self, output, task, restart):
        job = 1000 + task
        environment = {**self.environment, "PATH": f"{self.folder}:{self.environment['PATH']}", "SLURM_JOB_ID": str(job), "SLURM_CLUSTER_NAME": "soak",
                       "SLURM_ARRAY_JOB_ID": "1000", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0",
                       "SLURM_ARRAY_TASK_MAX": "3", "SLURM_RESTART_COUNT": str(restart)}
        with open(self.folder / f"task-{task}.log", "ab") as log:
            process = subprocess.Popen([*self.command(output, 1, 1, self.chance.choice((1, 5, 32))), "--chunk", str(self.chunk)], env=environment, stdout=log,
                                       stderr=log, start_new_session=True)
        self.tasks[task] = (process, restart)
        self.addCleanup(lambda: process.poll() is None and (process.kill(), process.wait(10)))

    def tell_squeue(self):
        running = [f"{1000 + task}|RUNNING" for task, (process, _) in self.tasks.items() if process.poll() is None]
        (self.folder / "queue.new").write_text("\n".join(running) + "\n")
        (self.folder / "queue.new").rename(self.folder / "queue")

    def array(self):
        self.write_prompts(self.chance.randrange(150, 500) if self.model == DEMO else self.chance.randrange(3000, 12000))
        expected, output, hits = self.undisturbed(), self.folder / "out.jsonl", []
        (self.folder / "squeue").write_text(f'#!/bin/sh\ncat "{self.folder}/queue"\n')
        (self.folder / "squeue").chmod(0o755)
        # A process that TERM meets before its main() blocks it dies of it, as by KILL.
        codes = (-signal.SIGKILL, -signal.SIGTERM, 75, self.good)
        self.tasks, self.chunk, self.log = {}, self.chance.choice((1, 7, 16, 64)), self.folder / "task-0.log"
        for task in range(4):
            self.start_task(output, task, 0)
        for _ in range(self.chance.randrange(1, 9)):
            self.tell_squeue()
            time.sleep(self.seconds * self.chance.uniform(0.02, 0.25))
            if output.exists():
                break
            task = self.chance.randrange(len(self.tasks))
            process, restart = self.tasks[task]
            what = self.chance.choice(("KILL", "TERM", "requeue", "requeue", "add"))
            hits.append(f"{what} {task}")
            if what == "add":
                self.start_task(output, len(self.tasks), 0)
                continue
            if process.poll() is None:
                self.signal(process.pid, signal.SIGTERM if what == "TERM" else signal.SIGKILL)
                self.assertIn(process.wait(LEAVE_SECONDS), codes, self.log_text())
            if what == "requeue":
                self.start_task(output, task, restart + 1)
        self.note = f", chunks of {self.chunk}, {', '.join(hits) or 'nothing'}"
        if not output.exists() and all(process.poll() is not None for process, _ in self.tasks.values()):
            self.start_task(output, 0, self.tasks[0][1] + 1)
        self.tell_squeue()
        for task, (process, _) in self.tasks.items():
            text = (self.folder / f"task-{task}.log").read_text(errors="replace")[-2000:]
            self.assertIn(process.wait(ATTEMPT_SECONDS), codes, f"task {task}: {text}")
        self.assertTrue(output.exists(), "the tasks have ended without an output")
        self.complete(output, expected)

    def silence(self):
        self.write_prompts(300 if self.model == DEMO else 8000)
        expected, output = self.undisturbed(), self.folder / "out.jsonl"
        process = self.start(output)
        time.sleep(self.seconds * self.chance.uniform(0.2, 0.8))
        ranks = self.ranks()
        victim = self.chance.randrange(self.tp * self.pp)
        self.note = f", rank {victim} stopped"
        if victim in ranks and self.tp * self.pp > 1:
            self.signal(ranks[victim], signal.SIGSTOP)
            self.until_gone([pid for rank, pid in ranks.items() if rank != victim], f"rank {victim} was silent")
            self.signal(ranks[victim], signal.SIGCONT)
            self.until_gone([ranks[victim]], f"rank {victim} went on")
        process.wait(LEAVE_SECONDS + ATTEMPT_SECONDS)
        self.complete(output, expected)

    # Serving

    def server(self):
        size = self.tp * self.pp
        return self.serve("--auth", "none", "--drain-seconds", 90 * PATIENCE, *self.layout(self.tp, self.pp), "--prefix-cache", self.chance.choice(("true", "false")),
                          launcher=mpirun(size) if size > 1 else (), model=self.model)

    def stream(self, server, seed):
        """One client: reads to the end, or leaves after some bytes. Says which."""
        chance = random.Random(seed)
        body = {"prompt": "Once upon a time", "max_tokens": chance.randrange(5, 300), "ignore_eos": True, "seed": seed, "stream": chance.random() < 0.7}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            if chance.random() < 0.6:
                time.sleep(chance.random() * 0.3)
                if body["stream"]:
                    connection.getresponse().read(chance.randrange(1, 2000))
                return "left"
            reply = connection.getresponse()
            text = reply.read().decode()
            if reply.status != 200 or (body["stream"] and "[DONE]" not in text):
                raise AssertionError(f"{reply.status}: {text[-300:]}")
            return "answered"
        finally:
            connection.close()

    def drop(self):
        server = self.server()
        body = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.8, "seed": 3}
        first = server.post("/v1/completions", body, timeout=ANSWER_SECONDS)["choices"]
        seeds = [self.chance.randrange(1 << 30) for _ in range(120)]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(lambda seed: self.stream(server, seed), seeds))
        self.note = f", {outcomes.count('left')} of {len(seeds)} clients left"
        deadline = time.monotonic() + 10 * PATIENCE
        while busy := [line for line in server.request("GET", "/metrics")[1].splitlines()
                       if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting", "sluice_cache_blocks_used")) and float(line.split()[-1]) > 0]:
            self.assertLess(time.monotonic(), deadline, busy)
            time.sleep(0.05)
        self.assertEqual(server.post("/v1/completions", body, timeout=ANSWER_SECONDS)["choices"], first)
        ranks = self.ranks()
        self.signal(ranks[0], signal.SIGTERM)
        self.assertEqual(server.process.wait(ANSWER_SECONDS), 0, server.text())

    def term(self):
        """Accepted requests are answered whole; later ones are refused; the exit is clean."""
        server = self.server()
        ranks, tokens = self.ranks(), self.chance.randrange(20, 300)

        def ask(i):
            body = {"prompt": f"Once upon a time {i}", "max_tokens": tokens, "ignore_eos": True}
            try:
                status, text = server.request("POST", "/v1/completions", body, timeout=ANSWER_SECONDS)
            except (ConnectionError, http.client.RemoteDisconnected):
                return "refused"
            if status == 503:
                return "refused"
            self.assertEqual(status, 200, text)
            self.assertEqual(json.loads(text)["usage"]["completion_tokens"], tokens)
            return "answered"

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            futures = [pool.submit(ask, i) for i in range(64)]
            time.sleep(self.chance.uniform(0.02, 0.6))
            self.signal(ranks[0], signal.SIGTERM)
            outcomes = [f.result() for f in futures]
        self.note = f", {outcomes.count('answered')} answered, {outcomes.count('refused')} refused"
        self.assertEqual(server.process.wait(ANSWER_SECONDS), 0, server.text())
        self.until_gone(ranks.values(), "after TERM")


def main():
    first, count = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that every cleanup runs
    passed = failed = 0
    for seed in range(first, first + count):
        scenario, started = Scenario(seed, array="--array" in sys.argv), time.monotonic()
        result = scenario.run()
        wrong = result.failures + result.errors
        print(f"{'FAILED' if wrong else 'ok    '} seed {seed}: {scenario.describe()} ({time.monotonic() - started:.1f} s)", flush=True)
        for _, why in wrong:
            print("    " + why.strip().replace("\n", "\n    "), flush=True)
        if wrong:
            print(f"    again: scripts/soak.sh {seed} 1{' --array' if '--array' in sys.argv else ''}", flush=True)
        passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

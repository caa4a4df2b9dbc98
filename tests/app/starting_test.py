# SPDX-License-Identifier: Apache-2.0
"""A signal ends what has only begun at once, with a line that says what it waited for."""
import os
import pathlib
import signal
import socket
import subprocess
import time

import harness
from harness import BINARY, DEMO

AT_ONCE = 10  # seconds; generous, because the machine may be busy: what is waited for lasts longer


class Starting(harness.Case):
    def start(self, *arguments, environment=None):
        process = subprocess.Popen([BINARY, *map(str, arguments)], env={**self.environment, **(environment or {})}, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def end(self, process, what=signal.SIGTERM):
        """Exit code and standard error after the signal."""
        process.send_signal(what)
        started = time.monotonic()
        words = process.communicate(timeout=60)[1]
        self.assertLess(time.monotonic() - started, AT_ONCE, words)
        return process.returncode, words

    def until(self, holds):
        deadline = time.monotonic() + 60
        while not holds():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def rank(self, rank, *arguments):
        """One rank of two, whose other never comes."""
        return self.start(*arguments, "--formation-timeout", 300, environment={
            "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_RANK": str(rank), "PMIX_NAMESPACE": f"alone-{os.getpid()}"})

    def verbs(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": "Once"}])
        return (("serve", "--model", DEMO), ("run", DEMO, "Once"),
                ("generate", "--model", DEMO, "--prompts", prompts, "--output", self.folder / "out.jsonl"))

    def waits(self, process):
        """The signal is blocked, and the wait is not for the processor: what comes next is a wait of many seconds."""
        def idle():
            before = os.sysconf("SC_CLK_TCK") and pathlib.Path(f"/proc/{process.pid}/stat").read_text().split()[13]
            time.sleep(0.5)
            return pathlib.Path(f"/proc/{process.pid}/stat").read_text().split()[13] == before
        self.until(lambda: process.poll() is not None or idle())
        self.assertIsNone(process.poll(), "it did not wait")

    def test_rank_1_without_rank_0_ends_by_a_signal_and_names_rank_0(self):
        for verb in self.verbs():
            for what in (signal.SIGTERM, signal.SIGINT):
                process = self.rank(1, *verb)
                self.until(lambda: (self.folder / "home/secret").exists())
                self.waits(process)
                code, words = self.end(process, what)
                self.assertEqual(code, 75, words)
                self.assertIn(f"{'TERM' if what == signal.SIGTERM else 'INT'} while waiting for rank 0 at this host", words)

    def test_rank_0_without_rank_1_ends_by_a_signal_and_names_rank_1(self):
        for verb in self.verbs():
            process = self.rank(0, *verb)
            self.until(lambda: any((self.folder / "home/rendezvous").glob("*")))
            self.waits(process)
            code, words = self.end(process)
            self.assertEqual(code, 128 + signal.SIGTERM if verb[0] == "run" else 75, words)
            self.assertIn("TERM while waiting for rank 1, expected on", words)
            for left in (self.folder / "home/rendezvous").glob("*"):
                left.unlink()

    def test_a_rank_ends_by_a_signal_while_it_reads_its_model(self):
        model = self.folder / "model"
        model.mkdir()
        for file in pathlib.Path(DEMO).iterdir():
            if not file.name.endswith(".safetensors"):
                (model / file.name).symlink_to(file)
        os.mkfifo(model / "model.safetensors")  # a file system that does not answer
        for verb in ("serve", "generate", "run"):
            given = ["--model", model] if verb != "run" else [model, "Once"]
            if verb == "generate":
                given += ["--prompts", self.write_lines("in.jsonl", [{"prompt": "Once"}]), "--output", self.folder / "out.jsonl"]
            process = self.start(verb, *given)
            self.waits(process)
            self.assertIn("TERM while loading " + str(model), self.end(process)[1])

    def slow_program(self, name):
        """A program of that name that does not answer, first in the path. Says when it runs."""
        place = self.folder / "bin"
        place.mkdir(exist_ok=True)
        begun = self.folder / f"{name}-runs"
        (place / name).write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 60\n")
        (place / name).chmod(0o755)
        return {"PATH": f"{place}:{self.environment['PATH']}"}, begun

    def test_who_waits_for_the_queue_ends_by_a_signal(self):
        environment, begun = self.slow_program("squeue")
        prompts = self.write_lines("in.jsonl", [{"prompt": "Once"}])
        for verb in (("list",), ("status", "77"), ("logs", "-f", "77"), ("stop", "77"), ("connect", "77"), ("chat", "77"), ("run", "77", "Once"), ("route",),
                     ("metrics", "77"), ("generate", "--url", "77", "--prompts", prompts, "--output", self.folder / "out.jsonl")):
            for what in (signal.SIGTERM, signal.SIGINT):
                begun.unlink(missing_ok=True)
                process = self.start(*verb, environment=environment)
                self.until(begun.exists)
                code, words = self.end(process, what)
                if verb[0] != "route":  # it routes to nobody and drains
                    self.assertNotEqual(code, 0, f"{verb}: {words}")

    def test_who_waits_for_a_server_that_does_not_answer_ends_by_a_signal(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(8)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            prompts = self.write_lines("in.jsonl", [{"prompt": "Once"}])
            for verb in (("chat", url), ("run", url, "Once"), ("bench", "serve", "--url", url),
                         ("generate", "--url", url, "--prompts", prompts, "--output", self.folder / "out.jsonl")):
                process = self.start(*verb)
                self.waits(process)
                self.assertNotEqual(self.end(process)[0], 0, verb)


if __name__ == "__main__":
    harness.main()

# SPDX-License-Identifier: Apache-2.0
"""Several ranks under mpirun on this machine."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

import harness
from harness import BINARY, DEMO, GOLDEN, mpirun


@unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
class Ranks(harness.Case):
    def children(self, server):
        """Process ids of the ranks, by rank."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                entries = dict(e.split("=", 1) for e in path.read_bytes().decode(errors="replace").split("\0") if "=" in e)
                command = (path.parent / "cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if entries.get("SLUICE_HOME") == self.environment["SLUICE_HOME"] and command == BINARY and "OMPI_COMM_WORLD_RANK" in entries:
                found[int(entries["OMPI_COMM_WORLD_RANK"])] = int(path.parent.name)
        return found

    def test_every_layout_gives_the_tokens_of_one_rank(self):
        cases = GOLDEN["chat"][:12]
        prompts = self.write_lines("in.jsonl", [{"messages": c["messages"]} for c in cases]
                                   + [{"messages": c["messages"], "temperature": 0.7} for c in cases])
        expected = None
        for ranks, tp, pp in ((1, 1, 1), (2, 2, 1), (2, 1, 2), (4, 2, 2), (3, 3, 1), (4, 4, 1)):
            output = self.folder / f"out-{tp}-{pp}.jsonl"
            done = harness.run([*(mpirun(ranks) if ranks > 1 else []), BINARY, "generate", "--model", DEMO, "--prompts", prompts, "--output", output,
                                "--tp", str(tp), "--pp", str(pp), "--max-new-tokens", "80"], environment=self.environment, timeout=280)
            self.assertEqual(done.returncode, 0, done.stderr)
            texts = [json.loads(line)["text"] for line in output.read_text().splitlines()]
            self.assertEqual(texts[:12], [c["text"] for c in cases], f"tp {tp} pp {pp}")
            expected = expected or texts
            self.assertEqual(texts, expected, f"tp {tp} pp {pp}")

    def test_gpt2_over_eight_tp_ranks_and_two_stages_gives_the_answers_of_one_rank(self):
        """Twelve heads do not divide by eight: ranks hold padding. The launches are those that users type."""
        prompts = self.write_lines("in.jsonl", [{"prompt": "the ##ing and 1999"}, {"prompt": "é", "temperature": 0.8}, {"prompt": "on a train " * 5}])
        expected = None
        # Slots are the machine's cores otherwise.
        environment = {**self.environment, **harness.NO_LEAKS, "OMPI_MCA_rmaps_base_oversubscribe": "1"}
        as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        launches = ([], []), (["mpirun", "-n", "8"], []), (["mpirun", "-n", "16", "--oversubscribe"], ["--tp", "8", "--pp", "2"])
        for launcher, layout in launches:
            output = self.folder / f"out-{len(launcher)}.jsonl"
            done = harness.run([*launcher, *(as_root if launcher else []), BINARY, "generate", "--model", harness.TWELVE_HEADS, *layout, "--prompts", prompts,
                                "--output", output, "--max-new-tokens", "32"], environment=environment, timeout=280)
            self.assertEqual(done.returncode, 0, done.stderr)
            answers = self.read_lines(output.name)
            self.assertEqual([a["generated_tokens"] for a in answers], [32] * 3)
            expected = expected or answers
            self.assertEqual(answers, expected, f"{launcher} {layout}")

    def test_a_wrong_task_count_is_refused_with_the_numbers_that_work(self):
        done = harness.run([*mpirun(3), BINARY, "serve", "--model", DEMO, "--tp", "2"], environment=self.environment, timeout=240)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"3 (tasks|ranks)|tp")

    def test_a_killed_rank_ends_all_within_10_seconds_and_is_named(self):
        for victim in (1, 0):
            server = self.serve("--tp", "2", launcher=mpirun(2))
            ranks = self.children(server)
            self.assertEqual(sorted(ranks), [0, 1])
            os.kill(ranks[victim], signal.SIGKILL)
            started = time.monotonic()
            while any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks.values()):
                self.assertLess(time.monotonic() - started, 10, server.text())
                time.sleep(0.05)
            server.process.wait(60)
            self.assertNotEqual(server.process.returncode, 0)
            if victim == 1:
                record = json.loads((self.folder / "home/jobs" / f"{server.start['record']}.json").read_text())
                self.assertEqual(record["state"], "stopped")
                self.assertIn("rank 1", record["reason"])
                self.assertIn("rank 1", server.text())

    def test_nothing_of_a_killed_launcher_is_left(self):
        """The harness itself: ranks of mpirun are no members of its process group, and some do not hear of its end."""
        process = subprocess.Popen([*mpirun(2), "sh", "-c", 'echo $$ >"$0/$OMPI_COMM_WORLD_RANK" && exec sleep 300', self.folder], start_new_session=True)
        deadline = time.monotonic() + 60
        while len(ranks := [int(text) for rank in "01" if (text := self.text_of(rank))]) < 2:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        harness.end_session(process)
        self.assertEqual([pid for pid in ranks if pathlib.Path(f"/proc/{pid}/exe").exists()], [])

    def text_of(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def test_term_drains_all_ranks(self):
        server = self.serve("--pp", "2", "--auth", "none", launcher=mpirun(2))
        self.assertEqual(server.start["pp"], 2)
        ranks = self.children(server)
        os.kill(ranks[0], signal.SIGTERM)
        self.assertEqual(server.process.wait(120), 0, server.text())

    def test_idle_ranks_use_under_2_percent_of_a_core(self):
        server = self.serve("--tp", "2", "--auth", "none", launcher=mpirun(2))
        server.post("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 5}})
        self.assert_idle(self.children(server).values())


if __name__ == "__main__":
    harness.main()

# SPDX-License-Identifier: Apache-2.0
"""sluice convert --tp N --pp N: folders of packed weights, from writing to serving."""
import json
import resource
import shutil
import signal
import subprocess
import time
import unittest

import harness
from harness import BINARY, DEMO, GOLDEN, mpirun

CASES = GOLDEN["chat"][:8]


class Packed(harness.Case):
    def pack(self, name, *arguments):
        out = self.folder / name
        done = self.run_sluice("convert", DEMO, out, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def generate(self, model, *arguments, launcher=()):
        prompts = self.write_lines("in.jsonl", [{"messages": c["messages"]} for c in CASES])
        output = self.folder / f"out-{time.monotonic_ns()}.jsonl"
        done = subprocess.run([*launcher, BINARY, "generate", "--model", model, "--prompts", prompts, "--output", output,
                               "--max-new-tokens", "80", *map(str, arguments)], env=self.environment, capture_output=True,
                              text=True, timeout=280)
        return done, [a["text"] for a in self.read_lines(output.name)] if output.exists() else []

    def test_a_packed_folder_is_a_whole_model(self):
        out = self.pack("one", "--tp", 1)
        names = sorted(p.name for p in out.iterdir())
        for name in ("config.json", "packed.json", "packed-00001-of-00001.safetensors", "tokenizer.json", "tokenizer_config.json"):
            self.assertIn(name, names)
        done, texts = self.generate(out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("packed weights:", done.stderr)
        self.assertEqual(texts, [c["text"] for c in CASES])
        server = self.serve(model=str(out))
        answer = server.post("/v1/chat/completions", {"messages": CASES[0]["messages"], "max_tokens": 80})
        self.assertEqual(answer["choices"][0]["message"]["content"], CASES[0]["text"])
        server.terminate()

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_each_rank_reads_its_own_file_and_the_layout_follows_the_folder(self):
        for tp, pp, scheme in ((2, 1, ()), (1, 2, ("--quantize", "int8")), (2, 2, ("--dtype", "float32"))):
            out = self.pack(f"{tp}x{pp}", "--tp", tp, "--pp", pp, *scheme)
            expected, texts = self.generate(DEMO, "--tp", tp, "--pp", pp, *scheme, launcher=mpirun(tp * pp))
            self.assertEqual(expected.returncode, 0, expected.stderr)
            done, found = self.generate(out, launcher=mpirun(tp * pp))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(found, texts)
        # The other files are not looked at: the last rank's is damaged, and only that rank says so.
        with open(out / "packed-00004-of-00004.safetensors", "r+b") as file:
            file.write(b"\xff" * 8)
        done, _ = self.generate(out, launcher=mpirun(4))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("packed-00004-of-00004.safetensors", done.stderr)
        self.assertNotIn("packed-00003-of-00004.safetensors", done.stderr)

    def test_a_folder_for_gpus_is_made_planned_and_refused_without_one(self):
        out = self.pack("gpus", "--tp", 2, "--device", "cuda")
        plan = self.run_sluice("plan", out, "--gpus", "h100", "--json")
        self.assertEqual(plan.returncode, 0, plan.stderr)
        self.assertEqual(json.loads(plan.stdout)["fits"][0]["tp"], 2)
        done, _ = self.generate(out, "--device", "cpu", launcher=mpirun(2) if shutil.which("mpirun") else ())
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("packed for GPUs (cuda-rows-1), and this run is on CPUs", done.stderr)
        verified = self.run_sluice("verify", out)
        self.assertEqual(verified.returncode, 0, verified.stderr)

    def test_other_runs_are_refused_by_name(self):
        out = self.pack("two", "--tp", 2, "--quantize", "int4")
        for arguments, words in (((), ("packed for tp 2, pp 1", f"sluice convert {DEMO} OUT --tp 1 --pp 1")),
                                 (("--dtype", "float32"), ("--dtype is float32", "packed as bfloat16")),
                                 (("--quantize", "int8"), ("--quantize is int8", "packed as int4"))):
            done, _ = self.generate(out, *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
        again = self.run_sluice("convert", out, self.folder / "again")
        self.assertEqual(again.returncode, 2)
        self.assertIn(f"convert what it was made of: {DEMO}", again.stderr)
        plan = self.run_sluice("plan", out)
        self.assertEqual(plan.returncode, 2)
        self.assertIn("packed for CPUs (cpu-panels-1), and this run is on GPUs", plan.stderr)
        self.assertIn("--quantize int4 --device cuda)", plan.stderr)
        layout = self.run_sluice("convert", DEMO, self.folder / "wide", "--tp", 3000)
        self.assertEqual(layout.returncode, 2)
        self.assertIn("attention heads", layout.stderr)
        experts = self.run_sluice("convert", DEMO, self.folder / "wide", "--experts", "split")
        self.assertIn("give --tp and --pp", experts.stderr)
        self.assertFalse((self.folder / "wide").exists())

    def test_info_and_verify_know_packed_folders(self):
        out = self.pack("two", "--tp", 2, "--quantize", "int8")
        info = self.run_sluice("info", out).stdout
        self.assertRegex(info, r"packed +for tp 2, pp 1, bfloat16, int8 \(cpu-panels-1\), of " + DEMO)
        self.assertRegex(info, r"files +2, one for each rank")
        self.assertRegex(info, r"tensor parallel +2, as it is packed")
        done = self.run_sluice("verify", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 files packed for tp 2, pp 1, bfloat16, int8, all right", done.stdout)
        path = out / "packed-00002-of-00002.safetensors"
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
        done = self.run_sluice("verify", out)
        self.assertEqual(done.returncode, 1)
        self.assertIn("packed-00002-of-00002.safetensors: its bytes are not those that were written", done.stderr)
        self.assertIn("1 file is damaged; pack it again: sluice convert", done.stdout)
        path.unlink()
        self.assertIn("missing", self.run_sluice("verify", out).stderr)
        self.assertEqual(self.run_sluice("verify", out, "--repair").returncode, 2)

    def test_a_conversion_that_is_killed_leaves_no_model(self):
        out = self.folder / "killed"
        # The kernel's signal at the first byte above a file size meets it while it writes, however fast it is.
        done = self.run_sluice("convert", DEMO, out, "--tp", 4, "--pp", 2, preexec_fn=lambda: (
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0)), resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))))
        self.assertEqual(done.returncode, -signal.SIGXFSZ, done.stderr)
        self.assertTrue(any(out.iterdir()))
        self.assertFalse((out / "config.json").exists())
        done, _ = self.generate(out)
        self.assertEqual(done.returncode, 2)
        self.assertIn("holds no config.json", done.stderr)
        done = self.run_sluice("convert", DEMO, out, "--tp", 4, "--pp", 2)
        self.assertIn("not an empty folder", done.stderr)

    def test_damaged_lists_are_refused(self):
        out = self.pack("one", "--tp", 1)
        good = json.loads((out / "packed.json").read_text())
        for change, word in (({"version": 9}, "version 9"), ({"tp": 0}, '"tp" is no number'), ({"tp": 2}, '"files" is no list of tp x pp'),
                             ({"dtype": "int8"}, '"dtype" is int8'), ({"files": [{"name": "../x", "bytes": 1, "sha256": ""}]}, "../x"),
                             ({"packing": 3}, '"packing" is no text')):
            (out / "packed.json").write_text(json.dumps({**good, **change}))
            done, _ = self.generate(out)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    harness.main()

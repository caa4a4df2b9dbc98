# SPDX-License-Identifier: Apache-2.0
"""The binary over the emulated CUDA module: the demo model answers as it does on the CPU, over every layout of ranks."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "app"))
import harness  # noqa: E402
from harness import BINARY, DEMO, GOLDEN, ROOT, mpirun  # noqa: E402

MODULE = os.environ["SLUICE_CUDA_MODULE"]
T5 = ROOT / "tests/golden/t5/flan"
TOKENS = 4  # a step takes about a second here


class Emulated(harness.Case):
    def setUp(self):
        super().setUp()
        self.environment.update(SLUICE_CUDA_MODULE=MODULE, SLUICE_NCCL_LIBRARY=MODULE)
        cases = GOLDEN["chat"][:2]
        self.prompts = self.write_lines(
            "in.jsonl", [{"messages": c["messages"]} for c in cases] + [{"messages": cases[0]["messages"], "temperature": 0.8, "top_p": 0.9}])

    def generate(self, name, *arguments, launcher=(), environment=None, model=DEMO):
        output = self.folder / name
        done = harness.run([*launcher, BINARY, "generate", "--model", model, "--prompts", self.prompts, "--output", output, "--dtype", "float32",
                            "--max-new-tokens", str(TOKENS), "--max-total-tokens", "64", "--max-batch-size", "3", "--max-batch-prefill-tokens", "64", "--max-batch-total-tokens", "256",
                               *map(str, arguments)], environment={**self.environment, **(environment or {})}, timeout=240)
        self.assertEqual(done.returncode, 0, done.stderr[-6000:])
        return [line["text"] for line in self.read_lines(name)], done.stderr

    def test_one_rank_answers_as_the_cpu_does_deterministic_or_not(self):
        expected, _ = self.generate("cpu.jsonl", "--device", "cpu")
        texts, log = self.generate("gpu.jsonl", "--device", "cuda")
        self.assertEqual(texts, expected)
        self.assertRegex(log, r"loaded in [0-9.]+ s, warm in [0-9.]+ s")
        self.assertEqual(self.generate("fixed.jsonl", "--device", "cuda", "--deterministic", "true")[0], expected)

    def test_beams_are_those_of_the_cpu(self):
        self.prompts = self.write_lines("beams.jsonl", [{"messages": GOLDEN["chat"][0]["messages"], "num_beams": 2, "temperature": 0}])
        expected, _ = self.generate("cpu.jsonl", "--device", "cpu")
        self.assertEqual(self.generate("gpu.jsonl", "--device", "cuda")[0], expected)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_an_encoder_answers_as_on_the_cpu_for_one_rank_two_and_two_stages(self):
        self.prompts = self.write_lines("t5.jsonl", [
            {"prompt": "the house is small", "max_tokens": 12, "temperature": 0}, {"prompt": "a longer prompt with several words", "max_tokens": 9, "temperature": 0},
            {"prompt": "draw", "max_tokens": 8, "temperature": 0.8, "seed": 4}, {"prompt": "beams", "max_tokens": 8, "temperature": 0, "num_beams": 3}])

        def answers(name, device, tp=1, pp=1):
            launcher = mpirun(tp * pp) if tp * pp > 1 else ()
            return self.generate(name, "--device", device, "--tp", tp, "--pp", pp, launcher=launcher, model=T5)[0]

        expected = answers("cpu.jsonl", "cpu")
        for tp, pp in ((1, 1), (2, 1), (1, 2)):
            self.assertEqual(answers(f"{tp}-{pp}.jsonl", "cuda", tp, pp), expected, f"tp {tp} pp {pp}")

    def test_weights_of_8_and_4_bits_answer_as_whole_ones_do(self):
        expected, _ = self.generate("cpu.jsonl", "--device", "cpu")
        texts, _ = self.generate("int4.jsonl", "--device", "cuda", "--quantize", "int4")  # the head has 8 bits
        self.assertEqual(texts[:2], expected[:2])  # the third is drawn
        packed = self.folder / "packed"
        done = self.run_sluice("convert", DEMO, packed, "--tp", 1, "--device", "cuda", "--dtype", "float32", "--quantize", "int4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.generate("packed.jsonl", "--device", "cuda", model=packed)[0], texts)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_two_and_four_ranks_answer_as_the_cpu_does(self):
        expected, _ = self.generate("cpu.jsonl", "--device", "cpu")
        for tp, pp, sums in ((2, 1, "nccl"), (1, 2, "auto"), (2, 2, "auto")):
            texts, log = self.generate(f"{tp}-{pp}.jsonl", "--device", "cuda", "--tp", tp, "--pp", pp, "--all-reduce", sums, launcher=mpirun(tp * pp))
            self.assertEqual(texts, expected, f"tp {tp} pp {pp}")
            self.assertIn("NCCL", log)
            self.assertRegex(log, r"self-test, 1 MiB summed: rank 1 on .*GB/s")
            self.assertEqual(len(re.findall(r"tp [0-9.]+ GB/s, 8 KiB between peers in \d+ us", log)), tp * pp if (tp, sums) == (2, "auto") else 0, log)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_peers_that_cannot_be_opened_leave_the_sums_to_nccl_or_are_refused(self):
        hidden = {"SLUICE_EMULATION_HIDES_PEERS": "1"}
        _, log = self.generate("hidden.jsonl", "--device", "cuda", "--tp", 2, launcher=mpirun(2), environment=hidden)
        self.assertRegex(log, r"all by NCCL: rank 0 of the group cannot open another's memory")
        done = harness.run([*mpirun(2), BINARY, "generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda",
                            "--tp", "2", "--all-reduce", "peer"], environment={**self.environment, **hidden}, timeout=240)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"--all-reduce peer over tp ranks 0, 1: rank 0 of the group cannot open another's memory: .*; choose auto or nccl")
        _, log = self.generate("told.jsonl", "--device", "cuda", "--tp", 2, launcher=mpirun(2), environment={"NCCL_P2P_DISABLE": "1"})
        self.assertIn("all by NCCL: NCCL_P2P_DISABLE is set", log)
        for wanted, device, message in (("ring", "cuda", r"all-reduce \(from --all-reduce\): expected auto, nccl or peer, found 'ring'"), ("peer", "cpu", r"--all-reduce peer: it concerns")):
            done = self.run_sluice("generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", device, "--all-reduce", wanted)
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stderr, message)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_ranks_whose_every_call_waits_for_the_device_do_not_wait_for_each_other(self):
        expected, _ = self.generate("cpu.jsonl", "--device", "cpu")
        texts, _ = self.generate("blocking.jsonl", "--device", "cuda", "--tp", 2, "--pp", 2, launcher=mpirun(4), environment={"CUDA_LAUNCH_BLOCKING": "1"})
        self.assertEqual(texts, expected)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_a_rank_that_fails_alone_says_why_and_ends_the_job(self):
        broken = self.folder / "model-1"
        shutil.copytree(DEMO, broken)
        weights = next(broken.glob("*.safetensors"))
        os.truncate(weights, weights.stat().st_size // 2)
        (self.folder / "model-0").symlink_to(DEMO)
        script = self.folder / "rank.sh"
        script.write_text(f'#!/bin/sh\nexec "{BINARY}" "$@" --model "{self.folder}/model-$OMPI_COMM_WORLD_RANK"\n')
        script.chmod(0o755)
        done = harness.run([*mpirun(2), script, "generate", "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda", "--tp", "2"],
                           environment=self.environment, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"sluice: .*model-1/.*safetensors")

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_nccl_that_waits_without_end_ends_the_job_with_the_reason(self):
        standin, peers = "SLUICE_STANDIN_NCCL", "SLUICE_EMULATION_HIDES_PEERS"
        for variable, fault, sums, message in (
                (standin, "deaf", "nccl", r"NCCL: tp ranks 0, 1 have not found each other after 8 s: .*NCCL_SOCKET_IFNAME"),
                (standin, "stuck:0", "nccl", r"a sum over tp ranks 0, 1 has not ended after 4 s: .*NCCL_SOCKET_IFNAME"),
                (peers, "writes", "auto", r"a sum over tp ranks 0, 1 has not ended after 4 s: .*--all-reduce nccl"),
                (standin, "broken:30", "nccl", r"NCCL: tp ranks 0, 1 lost a connection: remote process exited or there was a network error")):
            done = harness.run([*mpirun(2), BINARY, "generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda",
                                   "--tp", "2", "--all-reduce", sums, "--formation-timeout", "4"],
                                  environment={**self.environment, variable: fault}, timeout=60)
            self.assertNotEqual(done.returncode, 0, fault)
            self.assertRegex(done.stderr, message)

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_two_ranks_on_one_gpu_are_refused_with_both_names(self):
        done = harness.run([*mpirun(2), BINARY, "generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda"],
                           environment={**self.environment, "SLUICE_EMULATION_UUID": "7"}, timeout=240)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"ranks 0 and 1 are both on GPU GPU-")

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_tp_over_mig_instances_is_refused_with_the_reason(self):
        script = self.folder / "rank.sh"
        script.write_text(f'#!/bin/sh\nexport CUDA_VISIBLE_DEVICES=MIG-$OMPI_COMM_WORLD_RANK\nexec "{BINARY}" "$@"\n')
        script.chmod(0o755)
        done = harness.run([*mpirun(2), script, "generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda",
                            "--tp", "2"], environment=self.environment, timeout=240)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"--tp 2 over MIG instances")
        done = harness.run([*mpirun(2), BINARY, "generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda",
                            "--tp", "2"], environment={**self.environment, "SLUICE_EMULATION_NAME": "NVIDIA A100-SXM4-40GB MIG 3g.20gb"}, timeout=60)
        self.assertRegex(done.stderr, r"--tp 2 over MIG instances \(rank 0 on .* has MIG-", "without CUDA_VISIBLE_DEVICES")

    @unittest.skipUnless(shutil.which("mpirun"), "SKIPPED: mpirun is not installed")
    def test_constrained_and_banned_answers_are_those_of_the_cpu_for_one_rank_two_and_two_stages(self):
        case = GOLDEN["chat"][0]["messages"]
        asks = [{"messages": case, "max_tokens": 5, "temperature": 0, "guided_regex": "[a-c]{3} [0-9]+"},
                {"messages": case, "max_tokens": 4, "temperature": 0.9, "seed": 7, "guided_choice": ["yes", "never"]},
                {"messages": case, "max_tokens": 4, "temperature": 0.8, "seed": 3, "bad_words": ["a", "the", " The"], "no_repeat_ngram_size": 2},
                {"messages": case, "max_tokens": 4, "temperature": 0}]

        def answers(*arguments, launcher=()):
            server = self.serve("--auth", "none", "--dtype", "float32", "--max-total-tokens", "64", "--max-batch-size", "4", "--max-batch-prefill-tokens", "64",
                                "--max-batch-total-tokens", "512", *arguments, launcher=launcher)
            with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:  # in one batch
                replies = list(pool.map(lambda ask: server.post("/v1/chat/completions", {"model": "demo", **ask}), asks))
            server.terminate()
            return [r["choices"][0]["message"]["content"] for r in replies]

        expected = answers("--device", "cpu")
        self.assertRegex(expected[0], r"^[a-c]{3}")
        self.assertIn(expected[1], ("yes", "never"))
        for tp, pp in ((1, 1), (2, 1), (1, 2)):
            launcher = mpirun(tp * pp) if tp * pp > 1 else ()
            self.assertEqual(answers("--device", "cuda", "--tp", str(tp), "--pp", str(pp), launcher=launcher), expected, f"tp {tp} pp {pp}")

    def test_ranks_started_by_slurm_need_no_mpi_and_end_within_10_seconds_of_a_killed_one(self):
        """As `srun --mpi=none` starts them: nothing but SLURM_* variables, and no launcher that would end the others."""
        slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
                 "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURMD_NODENAME": "localhost"}
        ranks, logs = [], [self.folder / "rank0.log", self.folder / "rank1.log"]
        for rank in (0, 1):
            with open(logs[rank], "wb") as log:
                ranks.append(subprocess.Popen([BINARY, "serve", "--model", DEMO, "--device", "cuda", "--dtype", "float32", "--tp", "2", "--auth", "none",
                                               "--max-total-tokens", "64", "--max-batch-size", "2", "--max-batch-prefill-tokens", "64",
                                               "--max-batch-total-tokens", "256"], stdout=log, stderr=subprocess.STDOUT,
                                              env={**self.environment, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}))
            self.addCleanup(ranks[rank].wait, 10)
            self.addCleanup(ranks[rank].kill)
        deadline = time.monotonic() + 120
        while '"event":"start"' not in logs[0].read_text():
            self.assertLess(time.monotonic(), deadline, logs[0].read_text())
            self.assertIsNone(ranks[0].poll(), logs[0].read_text())
            time.sleep(0.1)
        start = json.loads(next(line for line in logs[0].read_text().splitlines() if line.startswith('{"event":"start"')))
        self.assertEqual((start["launcher"], start["mpi"], len({r["device"] for r in start["ranks"]})), ("slurm", "none", 2))
        connection = http.client.HTTPConnection("127.0.0.1", start["port"], timeout=240)
        connection.request("POST", "/generate_stream", json.dumps({"inputs": "Once", "parameters": {"max_new_tokens": 40}}), {"Content-Type": "application/json"})
        self.assertTrue(connection.getresponse().readline().startswith(b"data:"))  # a step is under way
        ranks[1].kill()
        self.assertNotEqual(ranks[0].wait(10), 0)
        connection.close()
        record = json.loads((self.folder / "home/jobs" / f"{start['record']}.json").read_text())
        self.assertEqual(record["state"], "stopped")
        self.assertIn("rank 1", record["reason"])

    def test_gpus_are_numbered_by_their_bus_also_where_none_was_asked_for(self):
        server = self.serve("--auth", "none", "--max-total-tokens", "64", "--max-batch-total-tokens", "256", environment={"SLUICE_EMULATION_DEVICES": "2"})
        self.assertRegex(server.start["ranks"][0]["device"], r"^GPU-.*00$")

    def test_a_model_that_does_not_fit_is_refused_before_it_is_read(self):
        done = self.run_sluice("generate", "--random-init", "llama-3-8b", "--prompts", self.prompts, "--output", self.folder / "o", "--device", "cuda")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"does not fit: its weights are 16\.\d GB .* free under --gpu-memory-utilization 0\.9; \d+ GPUs like this one")

    def test_no_gpu_and_no_module_say_why_not_where_a_gpu_was_asked_for(self):
        def run(name, *arguments, **environment):
            return self.run_sluice("generate", "--model", DEMO, "--prompts", self.prompts, "--output", self.folder / name, "--max-new-tokens", 2, *arguments,
                                   environment=environment)

        done = run("a", "--device", "cuda", SLUICE_EMULATION_DEVICES="0")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"device \(from --device\): cuda was asked for\. no GPU is visible to this rank")
        done = run("b", SLUICE_EMULATION_DEVICES="0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("computing on the CPU: no GPU is visible", done.stderr)
        done = run("c", "--device", "cuda", SLUICE_CUDA_MODULE="/nonexistent/sluice_cuda.so")
        self.assertEqual(done.returncode, 2)
        self.assertIn("this build has no CUDA module", done.stderr)
        done = run("d", "--device", "gpu")
        self.assertRegex(done.stderr, r"device \(from --device\): expected auto, cpu or cuda, found 'gpu'")


if __name__ == "__main__":
    harness.main()

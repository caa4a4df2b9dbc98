# SPDX-License-Identifier: Apache-2.0
"""sluice download and verify against a hub on loopback (hub_server.py)."""
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from hub_server import Hub, Repo

BINARY = sys.argv.pop(1) if len(sys.argv) > 1 else os.environ["SLUICE_BINARY"]
PEAK_KB = 1 << 20 if os.environ.get("SLUICE_SANITIZE") else 64 * 1024  # sanitizers hold back what is freed
PIECE = 16 << 20


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


def model(**more):
    files = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "tokenizer.json": b"{}", "README.md": b"hello",
             "model.safetensors": noise(3_000_000), "pytorch_model.bin": noise(1000, 2), "onnx/model.onnx": noise(500, 3),
             "empty.txt": b""}
    files.update(more)
    return files


def peak_kb(process):
    """Most memory that it has had; 0 once it is gone."""
    try:
        status = pathlib.Path("/proc/%d/status" % process.pid).read_text()
    except OSError:
        return 0
    return max([0] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")])


class Download(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-hub-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def environment(self, hub, **more):
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS")}
        env.update(HOME=str(self.folder / "home"), HF_HOME=str(self.folder / "hf"), HF_ENDPOINT=hub.url, no_proxy="*")
        return {**env, **more}

    def run_sluice(self, hub, *arguments, **more):
        return subprocess.run([BINARY, *arguments], env=self.environment(hub, **more), capture_output=True, text=True, timeout=120)

    def download(self, hub, *arguments, **more):
        done = self.run_sluice(hub, "download", "org/model", *arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return pathlib.Path(done.stdout.strip())

    def start(self, hub):
        return subprocess.Popen([BINARY, "download", "org/model"], env=self.environment(hub), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def check(self, folder, repo, names):
        self.assertEqual(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()), sorted(names))
        for name in names:
            source = repo.files[name]
            wanted = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
            self.assertEqual((folder / name).read_bytes(), wanted, name)

    CHOSEN = ["config.json", "tokenizer.json", "model.safetensors", "empty.txt"]

    def test_a_download_has_the_layout_of_the_cache(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            hub.page = 2
            folder = self.download(hub)
            self.check(folder, repo, self.CHOSEN)
            root = self.folder / "hf/hub/models--org--model"
            self.assertEqual(folder, root / "snapshots" / repo.commit)
            self.assertEqual((root / "refs/main").read_text(), repo.commit)
            self.assertEqual(os.readlink(folder / "config.json"), "../../blobs/" + repo.digest("config.json"))
            self.assertEqual(sorted(p.name for p in (root / "blobs").iterdir()), sorted({repo.digest(n) for n in self.CHOSEN}))
            sent = hub.sent
            again = json.loads(self.run_sluice(hub, "download", "org/model", "--json").stdout)
            self.assertEqual((again["folder"], again["commit"], again["files"], again["fetched"]), (str(folder), repo.commit, len(self.CHOSEN), 0))
            self.assertEqual(hub.sent, sent, "a second download fetches nothing")

    def test_patterns_choose_files_and_folders_keep_their_links(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            folder = self.download(hub, "--include", "*.onnx", "--include", "config.json")
            self.check(folder, repo, ["config.json", "onnx/model.onnx"])

    def test_bin_weights_are_taken_where_there_are_no_others(self):
        files = model()
        del files["model.safetensors"]
        repo = Repo(files)
        with Hub({"org/model": repo}) as hub:
            self.check(self.download(hub), repo, ["config.json", "tokenizer.json", "pytorch_model.bin", "empty.txt"])

    def test_the_token_goes_to_the_hub_and_to_nobody_else(self):
        repo = Repo(model(), private=True)
        with Hub({"org/model": repo}) as hub:
            (self.folder / "hf").mkdir()
            (self.folder / "hf/token").write_text("hf_good\n")
            self.check(self.download(hub), repo, self.CHOSEN)
            for address, _, authorization in hub.requests:
                self.assertEqual(authorization, "Bearer hf_good" if address == "127.0.0.1" else None)
            done = self.run_sluice(hub, "download", "org/model", SLURM_JOB_ID="7", HF_TOKEN="hf_good")
            self.assertIn("the token comes from HF_TOKEN", done.stderr)
            self.assertNotIn("hf_good", done.stderr + done.stdout)

    def test_refusals_say_what_to_do(self):
        with Hub({"org/gated": Repo(model(), gated=True), "org/model": Repo(model())}) as hub:
            for arguments, more, words in [
                (["org/gated"], {}, "access needs the licence to be accepted"),
                (["org/gated"], {"HF_TOKEN": "hf_bad"}, "the token of HF_TOKEN was sent"),
                (["org/missing"], {}, "the hub knows no such model, or it is private"),
                (["org/model", "--revision", "v9"], {}, "there is no such revision"),
                (["org/model", "--revision", "../up"], {}, "is no branch, tag or commit"),
                (["what/is/this"], {}, "is no name of a model on the hub"),
                (["org/model"], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
            ]:
                with self.subTest(words=words):
                    done = self.run_sluice(hub, "download", *arguments, **more)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertIn(words, done.stderr)

    def test_a_proxy_that_refuses_is_named_as_such(self):
        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self):
                self.send_error(403)

            def log_message(self, *_):
                pass

        proxy = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(proxy.server_close)
        self.addCleanup(proxy.shutdown)
        with Hub({}) as hub:
            done = self.run_sluice(hub, "download", "org/model", HF_ENDPOINT="https://hub.test", no_proxy="",
                                   https_proxy="http://127.0.0.1:%d" % proxy.server_port)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("the proxy of https_proxy answers 403", done.stderr)
            self.assertNotIn("again in", done.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "SKIPPED: a small file system needs root")
    def test_a_full_disk_is_named_before_and_while_bytes_arrive(self):
        cache = self.folder / "hf"
        cache.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", cache], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("SKIPPED: no file system can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", cache])
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            done = self.run_sluice(hub, "download", "org/model")
            self.assertEqual(done.returncode, 2)
            self.assertIn("set HF_HUB_CACHE to another file system", done.stderr)
            subprocess.run(["mount", "-o", "remount,size=8m", cache], check=True)
            hub.rate = 1_000_000
            process = subprocess.Popen([BINARY, "download", "org/model"], env=self.environment(hub), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while hub.sent < 200_000:
                time.sleep(0.01)
            with open(cache / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(1 << 12))
            self.assertIn("No space left on device; free some space", process.communicate(timeout=60)[1])
            self.assertEqual(process.returncode, 2)
            (cache / "ballast").unlink()
            hub.rate = None
            self.check(self.download(hub), repo, self.CHOSEN)

    @unittest.skipUnless(shutil.which("strace"), "SKIPPED: strace, which makes a write fail, is not here")
    def test_an_exhausted_quota_is_named(self):
        with Hub({"org/model": Repo(model())}) as hub:
            failing = ["strace", "-f", "-o", "/dev/null", "-e", "inject=pwrite64:error=EDQUOT"]
            done = subprocess.run([*failing, BINARY, "download", "org/model"], env=self.environment(hub), capture_output=True, text=True, timeout=120)
            if "ptrace" in done.stderr:
                self.skipTest("SKIPPED: strace may not trace here")
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("your quota is used up: set HF_HUB_CACHE to another file system", done.stderr)

    def test_passing_failures_are_retried_with_the_servers_delay(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            hub.fail_times, hub.busy_times = 2, 1
            begun = time.monotonic()
            self.check(self.download(hub), repo, self.CHOSEN)
            self.assertGreater(time.monotonic() - begun, 1.0)

    def test_dropped_connections_are_resumed_where_they_broke(self):
        repo = Repo(model(**{"model.safetensors": noise(40_000_000)}))
        with Hub({"org/model": repo}) as hub:
            hub.cut_after = 5_000_000
            self.check(self.download(hub), repo, self.CHOSEN)
            self.assertLess(hub.sent, 40_000_000 + 1_000_000)

    def test_a_signed_address_that_runs_out_is_asked_for_again(self):
        repo = Repo(model(**{"model.safetensors": noise(5 * PIECE)}))
        with Hub({"org/model": repo}) as hub:
            hub.expire_after = 2
            self.check(self.download(hub, "--connections", "1"), repo, self.CHOSEN)

    def test_a_server_without_ranges_still_delivers(self):
        repo = Repo(model(**{"model.safetensors": noise(2 * PIECE + 5)}))
        with Hub({"org/model": repo}) as hub:
            hub.ranges = False
            self.check(self.download(hub), repo, self.CHOSEN)

    def test_bytes_changed_on_the_way_are_noticed_and_fetched_again(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            hub.corrupt = {"model.safetensors", "config.json"}
            self.check(self.download(hub), repo, self.CHOSEN)

    def test_kills_lose_at_most_what_was_in_the_air(self):
        # The whole measure runs by hand: HUB_KILLS=50 HUB_BYTES=2000000000 python3 tests/hub/download_test.py build/cpu/sluice -k test_kills
        kills, size = int(os.environ.get("HUB_KILLS", 6)), int(os.environ.get("HUB_BYTES", 60_000_000))
        big = self.folder / "big"
        with open(big, "wb") as stream:
            for i in range(0, size, 1 << 20):
                stream.write(noise(min(1 << 20, size - i), i))
        repo = Repo(model(**{"model.safetensors": str(big)}))
        wanted, rng, peak = repo.digest("model.safetensors"), random.Random(5), 0
        with Hub({"org/model": repo}) as hub:
            hub.rate = size / 8 / (0.5 * kills)
            for i in range(kills):
                process, goal = self.start(hub), hub.sent + rng.uniform(0.1, 0.9) * size / kills
                while hub.sent < goal:
                    self.assertIsNone(process.poll(), "every kill is to meet a download")
                    time.sleep(0.002)
                peak = max(peak, peak_kb(process))
                process.send_signal(signal.SIGTERM if i % 5 == 4 else signal.SIGKILL)
                process.wait(20 + size / 20_000_000)  # a disk under load takes its time for what was written last
            before = hub.sent
            hub.rate = None
            process = self.start(hub)
            while process.poll() is None:
                peak = max(peak, peak_kb(process))
                time.sleep(0.02)
            self.assertEqual(process.returncode, 0)
            with open(next((self.folder / "hf/hub/models--org--model/snapshots").iterdir()) / "model.safetensors", "rb") as stream:
                self.assertEqual(hashlib.file_digest(stream, "sha256").hexdigest(), wanted)
            # What a killed process had not taken off its sockets is sent again: a socket's buffers for each connection.
            print(f"{kills} kills, {size} bytes: {before} sent by then, {hub.sent - size} sent twice, peak {peak / 1024:.0f} MB", file=sys.stderr)
            self.assertLess(hub.sent - size, kills * PIECE + 100_000)
            self.assertTrue(0 < peak < PEAK_KB, peak)

    def test_several_at_once_fetch_the_model_once(self):
        repo = Repo(model(**{"model.safetensors": noise(30_000_000)}))
        with Hub({"org/model": repo}) as hub:
            hub.rate = 200_000
            processes = [subprocess.Popen([BINARY, "download", "org/model"], env=self.environment(hub), stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE, text=True) for _ in range(4)]
            said = [[] for _ in processes]
            readers = [threading.Thread(target=lambda p=p, lines=lines: lines.extend(p.stderr)) for p, lines in zip(processes, said)]
            for reader in readers:
                reader.start()
            deadline = time.monotonic() + 60
            while sum("waiting for it" in line for lines in said for line in lines) < 3:
                self.assertLess(time.monotonic(), deadline, said)
                time.sleep(0.05)
            hub.rate = None
            outputs = [p.stdout.read() for p in processes]
            self.assertEqual([p.wait(120) for p in processes], [0] * 4, said)
            for process, reader in zip(processes, readers):
                reader.join()
                process.stdout.close()
                process.stderr.close()
            self.assertEqual(len(set(outputs)), 1)
            self.assertLess(hub.sent, 30_000_000 + 100_000)

    def test_a_dead_owner_is_replaced(self):
        repo = Repo(model(**{"model.safetensors": noise(30_000_000)}))
        with Hub({"org/model": repo}) as hub:
            hub.rate = 2_000_000
            process = self.start(hub)
            while hub.sent == 0:
                self.assertIsNone(process.poll())
                time.sleep(0.01)
            process.kill()
            process.wait()
            hub.rate = None
            self.assertTrue((self.folder / "hf/hub/models--org--model/.sluice/owner").exists())
            self.check(self.download(hub), repo, self.CHOSEN)

    def test_verify_finds_damage_and_repairs_it(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            folder = self.download(hub)
            done = self.run_sluice(hub, "verify", "org/model")
            self.assertEqual(done.returncode, 0, done.stderr)
            blob = (folder / "model.safetensors").resolve()
            data = bytearray(blob.read_bytes())
            data[1000] ^= 4
            blob.write_bytes(data)
            (folder / "tokenizer.json").unlink()
            (folder / "config.json").resolve().write_bytes(b"{}")
            done = self.run_sluice(hub, "verify", "org/model")
            self.assertEqual(done.returncode, 1)
            listed = self.run_sluice(hub, "verify", "org/model", "--json")
            self.assertEqual([one["path"] for one in json.loads(listed.stdout)["damaged"]], ["config.json", "model.safetensors", "tokenizer.json"])
            for words in ("model.safetensors: digest", "tokenizer.json: missing", "config.json: 2 bytes, expected"):
                self.assertIn(words, done.stderr)
            done = self.run_sluice(hub, "verify", "org/model", "--repair")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.check(folder, repo, self.CHOSEN)

    def test_a_model_is_found_by_name_offline_and_on_the_search_path(self):
        repo = Repo(model())
        with Hub({"org/model": repo}) as hub:
            done = self.run_sluice(hub, "info", "org/model")
            self.assertEqual(done.returncode, 2)
            self.assertIn("sluice download org/model", done.stderr)
            demo = pathlib.Path(__file__).resolve().parents[1] / "models/demo"
            shared = self.folder / "shared/org/model"
            shutil.copytree(demo, shared)
            done = self.run_sluice(hub, "info", "org/model", MODEL_PATH=str(self.folder / "shared"))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"model +org/model\n")

    def test_a_terminal_shows_bytes_rate_and_time_left(self):
        with Hub({"org/model": Repo(model())}) as hub:
            hub.rate = 500_000
            near, far = pty.openpty()
            process, shown = subprocess.Popen([BINARY, "download", "org/model"], env=self.environment(hub), stdout=subprocess.DEVNULL, stderr=far), b""
            os.close(far)
            with contextlib.suppress(OSError):  # the terminal's end
                while part := os.read(near, 4096):
                    shown += part
            os.close(near)
            self.assertEqual(process.wait(60), 0)
            self.assertRegex(shown.decode(), r"\r\033\[Korg/model █+░+ +\d+ %  \d\.\d MB of 3\.0 MB  (\d+ KB|\d\.\d MB)/s  \d+ s left")

    def test_memory_stays_flat(self):
        big = self.folder / "big"
        with open(big, "wb") as stream:
            stream.truncate(300_000_000)
        repo = Repo(model(**{"model.safetensors": str(big)}))
        with Hub({"org/model": repo}) as hub:
            process, peak = self.start(hub), 0
            while process.poll() is None:
                peak = max(peak, peak_kb(process))
                time.sleep(0.02)
            self.assertEqual(process.returncode, 0)
            self.assertTrue(0 < peak < PEAK_KB, peak)


if __name__ == "__main__":
    unittest.main(verbosity=2)

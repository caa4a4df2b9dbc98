# SPDX-License-Identifier: Apache-2.0
"""What a second Unix user of the same node can do with the first one's server, files and local proxy: nothing. Needs root, to become that user."""
import os
import pathlib
import re
import signal
import subprocess
import time
import unittest

import harness
from harness import BINARY, DEMO

OTHER = 61234  # nobody's number


@unittest.skipUnless(os.geteuid() == 0, "SKIPPED: becoming another user needs root")
class OtherUser(harness.Case):
    def setUp(self):
        super().setUp()
        self.folder.chmod(0o755)  # the files' own modes have to protect them, not the folder of the test

    def as_other(self, *command, **kwargs):
        return subprocess.run([str(part) for part in command], user=OTHER, group=OTHER, extra_groups=[], capture_output=True, text=True, timeout=60,
                              env={"PATH": os.environ["PATH"]}, cwd="/", **kwargs)

    def closed(self, path):
        self.assertTrue(path.exists(), path)
        done = self.as_other("cat" if path.is_file() else "ls", path)
        self.assertNotEqual(done.returncode, 0, f"another user reads {path}")
        self.assertIn("Permission denied", done.stderr)
        self.assertEqual(path.stat().st_mode & 0o077, 0, f"{path} is open to others")

    def test_keys_records_and_the_server_are_closed_to_another_user(self):
        server = self.serve()
        home = self.folder / "home"
        for path in (home, home / "jobs", home / "keys", next((home / "jobs").glob("*.json")), next((home / "keys").iterdir())):
            self.closed(path)
        url = f"http://127.0.0.1:{server.port}"
        ask = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d", '{"inputs":"a"}', f"{url}/generate")
        self.assertEqual(self.as_other(*ask).stdout, "401")
        self.assertEqual(self.as_other(*ask, "-H", f"Authorization: Bearer {'0' * 64}").stdout, "401")
        self.assertEqual(self.as_other("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/metrics").stdout, "401")
        # The key is in no list of processes, no environment that others read, no log.
        self.assertNotIn(server.key, self.as_other("ps", "axww", "-o", "args").stdout)
        self.assertNotIn(server.key, server.text())
        self.assertNotEqual(self.as_other("cat", f"/proc/{server.process.pid}/environ").returncode, 0)
        self.assertNotIn(server.key.encode(), pathlib.Path(f"/proc/{server.process.pid}/environ").read_bytes())
        self.assertNotIn(server.key.encode(), pathlib.Path(f"/proc/{server.process.pid}/cmdline").read_bytes())

    def test_the_proxy_of_connect_serves_its_own_user_alone(self):
        server = self.serve()
        job = next((self.folder / "home/jobs").glob("*.json")).stem
        log = open(self.folder / "connect.log", "wb")
        proxy = subprocess.Popen([BINARY, "connect", job], env=self.environment, stdout=log, stderr=log)
        self.addCleanup(lambda: (proxy.terminate(), proxy.wait(10), log.close()))
        port = None
        for _ in range(1200):
            port = re.search(r"127\.0\.0\.1:(\d+)|localhost:(\d+)", (self.folder / "connect.log").read_text())
            if port:
                break
            time.sleep(0.05)
        self.assertTrue(port, (self.folder / "connect.log").read_text())
        port = port.group(1) or port.group(2)
        ask = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d",
               '{"inputs":"a","parameters":{"max_new_tokens":2}}', f"http://127.0.0.1:{port}/generate")
        mine = subprocess.run(ask, capture_output=True, text=True, timeout=60)
        self.assertEqual(mine.stdout, "200", f"{mine}\n{server.text()[-500:]}")
        self.assertNotEqual(self.as_other(*ask).stdout, "200", "another user is served with this user's key")

    def test_a_batch_under_way_and_its_claims_are_closed_to_another_user(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": f"Once upon a time {i}", "max_tokens": 60} for i in range(4000)])
        for name, more, held in (("own", (), "own.journal"), ("shared", ("--shared",), "shared.shared")):
            process = subprocess.Popen([BINARY, "generate", "--model", DEMO, "--prompts", prompts, "--output", self.folder / name, *more], env=self.environment,
                                       stderr=subprocess.DEVNULL)
            self.addCleanup(lambda p=process: (p.kill(), p.wait(10)))
            path = self.folder / held
            for _ in range(600):
                if path.is_file() and path.stat().st_size > 2000 or path.is_dir() and any((path / "journals").glob("*")):
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGSTOP)  # what is there stays there while it is looked at
            self.closed(path)
            if path.is_dir():
                for inner in [*path.rglob("*")]:
                    self.assertEqual(inner.stat().st_mode & 0o077, 0, f"{inner} is open to others")
            process.kill()
            process.wait(10)

    def test_a_socket_is_its_own_users_and_works_for_her(self):
        path = self.folder / "open" / "s.sock"
        path.parent.mkdir()
        path.parent.chmod(0o755)
        server = self.serve("--host", f"unix:{path}", "--auth", "none")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        ask = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", path, "http://localhost/health")
        self.assertEqual(subprocess.run([str(a) for a in ask], capture_output=True, text=True, timeout=60).stdout, "200")
        self.assertEqual(self.as_other(*ask).stdout, "000")
        job = next((self.folder / "home/jobs").glob("*.json")).stem
        status = self.run_sluice("status", job)
        self.assertIn("health       answers", status.stdout, status)
        prompts = self.write_lines("in.jsonl", [{"prompt": "Once", "max_tokens": 3}])
        done = self.run_sluice("generate", "--url", job, "--prompts", prompts, "--output", self.folder / "o")
        self.assertEqual(done.returncode, 0, done.stderr)
        again = self.run_sluice("serve", "--model", "null", "--host", f"unix:{path}")
        self.assertEqual(again.returncode, 2)
        self.assertIn("a server listens there already", again.stderr)
        self.assertEqual(server.terminate(), 0)
        self.assertFalse(path.exists())
        path.parent.chmod(0o777)
        loose = self.run_sluice("serve", "--model", "null", "--host", f"unix:{path}")
        self.assertEqual(loose.returncode, 2)
        self.assertIn("others can put a socket", loose.stderr)

    def test_keys_that_others_could_have_read_are_refused(self):
        home = self.folder / "home"
        home.mkdir(mode=0o755)
        home.chmod(0o755)
        done = self.run_sluice("serve", "--model", "null")
        self.assertEqual(done.returncode, 2)
        self.assertIn("chmod", done.stderr)
        os.chown(home, OTHER, OTHER)
        home.chmod(0o700)
        done = self.run_sluice("serve", "--model", "null")
        self.assertEqual(done.returncode, 2)
        self.assertIn(str(home), done.stderr)


if __name__ == "__main__":
    harness.main()

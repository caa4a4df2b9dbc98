# SPDX-License-Identifier: Apache-2.0
import os
import pty
import select
import signal
import subprocess
import time

import harness
from harness import BINARY, DEMO


class Chat(harness.Case):
    def test_a_pipe_gets_answers_only(self):
        done = self.run_sluice("chat", DEMO, input="What is the capital of France?\nWhat is 3 plus 4?\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines(), ["The capital of France is Paris.", "3 + 4 = 7."])

    def test_a_model_without_a_template_is_refused(self):
        done = self.run_sluice("chat", "null")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no chat template", done.stderr)

    def test_commands_and_interrupts_at_a_terminal(self):
        parent, child = pty.openpty()
        process = subprocess.Popen([BINARY, "chat", DEMO, "--max-new-tokens", "900"], stdin=child, stdout=child, stderr=child,
                                   env=self.environment, start_new_session=True)
        os.close(child)
        self.addCleanup(process.kill)
        seen = b""

        def expect(text, seconds=30):
            nonlocal seen
            deadline = time.monotonic() + seconds
            while text not in seen:
                self.assertLess(time.monotonic(), deadline, seen.decode(errors="replace"))
                if select.select([parent], [], [], 0.1)[0]:
                    seen += os.read(parent, 65536)
            seen = seen[seen.index(text) + len(text):]

        expect(b"> ")
        os.write(parent, b"/nonsense\n")
        expect(b"is no command")
        expect(b"> ")
        os.write(parent, b"What is the opposite of hot?\n")
        expect(b"The opposite of hot is cold.")
        expect(b"> ")
        process.send_signal(signal.SIGINT)
        expect(b"Ctrl-C again")
        os.write(parent, b"/bye\n")
        self.assertEqual(process.wait(20), 0)
        os.close(parent)


if __name__ == "__main__":
    harness.main()

# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import time

import harness
from harness import DEMO


class CommandLine(harness.Case):
    def test_info_prints_every_setting_with_value_and_origin(self):
        out = self.run_sluice("info", "--port", "1234", environment={"MAX_BEST_OF": "7", "TP": "2"}).stdout
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
        self.assertEqual(rows["port"][1:], ["1234", "--port"])
        self.assertEqual(rows["max-best-of"][1:], ["7", "MAX_BEST_OF"])
        self.assertEqual(rows["tp"][1:], ["2", "TP"])
        self.assertEqual(rows["block-size"][1:], ["16", "default"])

    def test_info_describes_a_model(self):
        out = self.run_sluice("info", DEMO).stdout
        self.assertIn("llama", out)
        self.assertIn("6 layers, width 256, 8 heads, 4 key-value heads of 32", out)
        self.assertIn("0.008 GB as bfloat16", out)
        self.assertIn("3072 bytes per token", out)
        rows = dict(line.split("  ", 1) for line in out.split("\n\n")[0].splitlines())
        rows = {name: value.strip() for name, value in rows.items()}
        self.assertEqual((rows["chat template"], rows["end of text"]), ("default", "1 '<|end|>'"))
        self.assertEqual(rows["special tokens"], "bos_token '<|begin|>', eos_token '<|end|>', pad_token '<|pad|>'")
        self.assertEqual((rows["tensor parallel"], rows["pipeline stages"]), ("1, 2, 4, 8", "1 to 6"))
        out = self.run_sluice("info", harness.ROOT / "tests/golden/checkpoints/faster_transformer").stdout
        self.assertIn("gpt2", out)
        self.assertRegex(out, r"tokenizer +.* has no tokenizer.json, .* pass --tokenizer DIR")
        rows = [line.split() for line in self.run_sluice("info", "--families").stdout.splitlines()]
        self.assertEqual({r[0] for r in rows}, {p.stem for p in (harness.ROOT / "src/model/families").glob("*.cpp")})
        self.assertIn(["t5", "T5ForConditionalGeneration"], rows)

    def refused(self, *arguments, says, environment=None):
        done = self.run_sluice(*arguments, environment=environment)
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("sluice: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for part in says:
            self.assertIn(part, lines[0])

    def test_what_is_not_there_is_refused_by_name_with_exit_code_2(self):
        self.refused("serve", says=["no model", "--model"])
        self.refused("serve", "--model", "/nowhere", says=["/nowhere", "config.json"])
        self.refused("serve", "--model", DEMO, says=["quantize", "QUANTIZE", "'exl2'"], environment={"QUANTIZE": "exl2"})
        self.refused("serve", "--model", DEMO, "--dtype", "int3", says=["int3", "bfloat16"])
        self.refused("serve", "--model", DEMO, "--port", "99999", says=["port", "65535", "99999"])
        self.refused("serve", "--model", DEMO, "--auth", "maybe", says=["auth", "maybe"])
        self.refused("serve", "--model", DEMO, "--tp", "2", says=["2"])
        self.refused("serve", "--model", harness.ROOT / "README.md", says=["README.md' is a file", "config.json"])
        self.refused("serve", "--model", DEMO, "--tokenizer", "/nowhere", says=["/nowhere: there is no such folder"])
        self.refused("serve", "--model", DEMO, "--host", "203.0.113.1", says=["203.0.113.1: this machine has no such address"])
        self.refused("generate", "--model", DEMO, "--prompts", "/nowhere", "--output", "o", says=["/nowhere"])
        self.refused("plan", "a/b", says=["a/b", "sluice download a/b --include config.json"])
        self.refused("bench", "--random-init", "llama-9", says=["llama-9", "llama-3.2-1b"])

    def test_a_wrong_value_is_refused_before_anything_is_loaded_or_submitted(self):
        for setting, value in (("drain-seconds", "-1"), ("watermark-gamma", "2"), ("max-input-tokens", "2000"),
                               ("gpu-memory-utilization", "90"), ("all-reduce", "ring"), ("experts", "some")):
            for verb in ("serve", "launch") if setting != "max-input-tokens" else ("serve",):
                done = self.run_sluice(verb, DEMO, f"--{setting}", value)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertRegex(done.stderr, rf"^sluice: {setting} \(from --{setting}\): expected .*, found '{value}'\n$")
        done = self.run_sluice("info", environment={"GRACEFUL_TERMINATION_TIMEOUT": "soon"})
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stdout, r"drain-seconds +soon +GRACEFUL_TERMINATION_TIMEOUT\n")
        self.assertIn("drain-seconds (from GRACEFUL_TERMINATION_TIMEOUT): expected a number from 0 to 86400", done.stderr)

    def test_what_a_verb_cannot_do_is_refused_before_it_begins(self):
        for words, says in (
            (["bench", "--model", DEMO, "--batch", "0"], "--batch: Value 0 not in range 1 to 65536"),
            (["bench", "serve", "--url", "n:1", "--seed", "many"], "--seed: expected a number, found 'many'"),
            (["bench", "--model", DEMO, "--prefill", "1024"], "--prefill 1024: expected fewer than the 1024 tokens"),
            (["bench", "--model", DEMO, "--context", "1021"], "--context 1021: expected fewer than 1021 tokens"),
            (["launch", DEMO, "--cpu", "--dry-run", "--name", "a/b"], "--name 'a/b': expected letters"),
            (["launch", DEMO, "--cpu", "--dry-run", "--name", "148"], "--name '148': expected letters"),
            (["launch", DEMO, "--cpu", "--dry-run", "--log", "/nowhere/l"], "there is no folder /nowhere"),
            (["launch", DEMO, "--cpu", "--dry-run", "--keep-alive-lead", "5"], "belong to --keep-alive"),
            (["launch", DEMO, "--cpu", "--dry-run", "--keep-alive", "--keep-alive-until", "soon"], "expected a moment (2026-12-24T18:00)"),
            (["bench", "--model", DEMO, "--json", "/nowhere/f"], "--json: there is no folder /nowhere"),
            (["route", "--backend", "https://x"], "https is not supported"),
        ):
            done = self.run_sluice(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), (words, done.stderr))
            self.assertIn(says, done.stderr)
        script = self.run_sluice("launch", "--random-init", "llama-3.2-1b", "--cpu", "--dry-run").stdout
        self.assertIn("export SLUICE_RANDOM_INIT=llama-3.2-1b\n", script)

    def test_an_option_without_effect_is_refused_by_name(self):
        prompts = self.write_lines("in.jsonl", [{"prompt": "Once"}])
        batch = ["--prompts", prompts, "--output", self.folder / "out"]
        url = "http://127.0.0.1:9"
        for words, says in (
            (["serve", DEMO, "--revision", "main"], "--revision main: it chooses among those of a downloaded model"),
            (["plan", DEMO, "--revision", "main"], "--revision main: it chooses among those of a downloaded model"),
            (["serve", DEMO, "--device", "cpu", "--gpu-memory-utilization", "0.5"], "--gpu-memory-utilization 0.5: it concerns GPUs"),
            (["serve", "null", "--tp", "1"], "--tp 1: it concerns a model that computes, and 'null' does not"),
            (["serve", "null", "--device", "cpu"], "--device cpu: it concerns a model that computes"),
            (["serve", DEMO, "--host", "unix:/tmp/s", "--port", "3000"], "--port 3000: the server listens on a socket"),
            (["serve", DEMO, "--allowed-hosts", "a"], "it belongs to --auth none; leave it out"),
            (["serve", DEMO, "--log-prompts", "true"], "give --request-log FILE"),
            (["serve", DEMO, "--model", "other"], f"the model is {DEMO} and --model says other; give one of them"),
            (["generate", "--model", DEMO, *batch, "--connections", "4"], "--connections belongs to --url"),
            (["generate", "--model", DEMO, *batch, "--chunk", "4"], "--chunk belongs to --shared"),
            (["generate", "--model", DEMO, *batch, "--key-file", prompts], "--key-file belongs to --url"),
            (["generate", "--url", url, *batch, "--tp", "2"], f"--tp 2: it concerns a model in this process, and {url} is a server"),
            (["generate", "--url", url, *batch, "--served-model-name", "x"], "--served-model-name"),
            (["run", DEMO, "--top-p", "0.9", "hi"], "--top-p 0.9: at temperature 0 (from default)"),
            (["run", url, "--via", "login", "hi"], f"--via login: it leads to a job's node, and {url} is an address"),
            (["bench", "--model", DEMO, "--tp", "2"], "there is no option --tp"),
            (["bench", "serve", "--url", url, "--seed", "3"], "--seed requires --rate"),
            (["bench", "serve", "--url", url, "--prompt", "x", "--prompt-size", "3"], "--prompt-size excludes --prompt"),
            (["connect", "1", "--port", "4000", "--socket", "/tmp/s"], "--port excludes --socket"),
            (["route", "--model", "m", "--backend", url], "--model excludes --backend"),
            (["convert", DEMO, self.folder / "new", "--random-init", "x"], "there is no option --random-init"),
            (["launch", DEMO, "--cpu", "--dry-run", "--keep-alive-jobs", "3"], "belong to --keep-alive"),
        ):
            done = self.run_sluice(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""), (words, done.stderr))
            self.assertIn(says, done.stderr)

    def test_a_variable_that_does_not_apply_is_no_error(self):
        """A site's defaults are for all its runs."""
        site = {"REVISION": "main", "SLUICE_COMM": "tcp", "SLUICE_GPU_MEMORY_UTILIZATION": "0.5", "SLUICE_ALL_REDUCE": "nccl", "SLUICE_EXPERTS": "spread",
                "SLUICE_FORMATION_TIMEOUT": "90", "SLUICE_RANDOM_INIT": "llama-tiny", "SERVED_MODEL_NAME": "a,b", "SLUICE_LOG_PROMPTS": "true"}
        done = self.run_sluice("run", DEMO, "What is the capital of France?", environment=site)
        self.assertEqual((done.returncode, done.stdout), (0, "The capital of France is Paris.\n"), done.stderr)
        server = self.serve(environment={k: v for k, v in site.items() if k != "SLUICE_RANDOM_INIT"})
        self.assertEqual(server.terminate(), 0)
        done = self.run_sluice("plan", DEMO, environment=site)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_bench_decodes_several_sequences_of_a_model_with_windows(self):
        for case in ("llama/mistral_window", "llama/qwen2_window"):  # in all layers, in some
            done = self.run_sluice("bench", "--model", harness.ROOT / "tests/golden" / case, "--batch", "1,4", "--prefill", "100", "--context", "100",
                                   "--max-batch-prefill-tokens", "128", "--repeats", "1", "--seconds", "0.05")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stderr, r"decode +batch +4 +\d")

    def test_a_name_that_begins_with_maritalk_stands_for_that_program(self):
        link = self.folder / "maritalk-cuda11"
        link.symlink_to(harness.BINARY)
        done = subprocess.run([link, "--help"], capture_output=True, text=True)
        self.assertIn("Serves MODEL_ID as MariTalk Local does", done.stdout)
        done = subprocess.run([link, "--port", "0"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertEqual(done.stderr, "maritalk: --port: Value 0 not in range 1 to 65535\nmaritalk --help says what it takes\n")

    def test_maritalk_listens_on_a_socket_where_the_site_says_so(self):
        link, place = self.folder / "maritalk", self.folder / "socket"
        link.symlink_to(harness.BINARY)
        process = subprocess.Popen([link], env={**self.environment, "MODEL_ID": "null", "SLUICE_HOST": f"unix:{place}"},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.addCleanup(harness.end_session, process)
        deadline = time.monotonic() + 60
        while not place.exists():
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_help_is_a_command_too(self):
        for words, same in ((["help"], ["--help"]), (["help", "bench", "serve"], ["bench", "serve", "--help"])):
            done = self.run_sluice(*words)
            self.assertEqual((done.returncode, done.stdout), (0, self.run_sluice(*same).stdout))
            self.assertEqual("sluice COMMAND --help" in done.stdout, words == ["help"])

    def test_what_is_loaded_takes_regular_expressions_from_the_c_library(self):
        # Oniguruma has functions of the same names with other flags.
        done = self.run_sluice("--version", environment={"LD_BIND_NOW": "1", "LD_DEBUG": "bindings"})
        taken = [line for line in done.stderr.splitlines() if "symbol `reg" in line and " to " in line]
        for line in taken:
            self.assertFalse("libonig" in line.split(" to ")[1] and "libonig" not in line.split(" to ")[0], line)

    def test_an_unknown_option_is_refused(self):
        done = self.run_sluice("serve", "--modle", DEMO)
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no option --modle; did you mean --model?", done.stderr)

    def test_a_wrong_command_line_is_told_the_nearest_right_one(self):
        for words, says in (
            (["serv"], "sluice: there is no command 'serv'; did you mean serve?"),
            (["keeep"], "sluice: there is no command 'keeep'\n"),
            (["serve", "--port"], "sluice serve: --port needs a value\n"),
            (["xylophone"], "sluice: there is no command 'xylophone'\n"),
            (["bench", "sreve"], "sluice bench: 'sreve' is one word too many; did you mean serve?"),
            (["bench", "serve"], "sluice bench serve: --url is required\nsluice bench serve --help says what it takes"),
            (["plan", "a", "b"], "sluice plan: 'b' is one word too many\n"),
            ([], "Usage: sluice"),
        ):
            done = self.run_sluice(*words)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(says, done.stderr)

    def test_commands_that_the_documents_and_scripts_show_take_their_options(self):
        verbs = re.findall(r"^  ([a-z]+) ", self.run_sluice("--help").stdout, re.M)
        shown = re.compile(rf'(?:\bsluice|"\$sluice")\s+(bench serve|bench quality|{"|".join(verbs)})\b([^`|;&>]*)')
        known, seen = {}, 0
        for file in [harness.ROOT / "README.md", *(harness.ROOT / "docs").glob("*.md"), *(harness.ROOT / "scripts").glob("*.sh"),
                     *(harness.ROOT / "slurm").glob("*.sh"), *(harness.ROOT / "benchmarks").glob("*.sh")]:
            text = file.read_text().replace("\\\n", " ")
            lines = text.splitlines()
            if file.suffix == ".md":
                lines = [line for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.S) for line in block.splitlines()]
                lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]
            for verb, words in (found.groups() for line in lines for found in shown.finditer(line)):
                if verb not in known:
                    known[verb] = set(re.findall(r"--[a-z][a-z0-9-]*", self.run_sluice(*verb.split(), "--help").stdout))
                for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", words):
                    seen += 1
                    self.assertIn(option, known[verb], f"{file}: sluice {verb}{words}")
        self.assertGreater(seen, 100)

    def test_a_folder_needs_no_home(self):
        for verb in ("plan", "info"):
            done = subprocess.run([harness.BINARY, verb, DEMO], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), verb)
        done = subprocess.run([harness.BINARY, "plan", "a/b"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
        self.assertIn("no place for models: neither HF_HOME nor HOME is set", done.stderr)

    def test_serve_takes_its_model_as_an_argument_too(self):
        self.refused("serve", "/nowhere/model", says=["/nowhere/model", "config.json"])


if __name__ == "__main__":
    harness.main()

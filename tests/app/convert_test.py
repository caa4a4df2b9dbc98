# SPDX-License-Identifier: Apache-2.0
"""sluice convert, --quantize, and what rounding costs."""
import json
import unittest

import harness
from harness import DEMO, ROOT

CHECKPOINTS = ROOT / "tests/golden/checkpoints"
QUESTIONS = [json.loads(line) for line in (ROOT / "tests/models/demo_questions.jsonl").read_text().splitlines()]


class Convert(harness.Case):
    def answers(self, model, name, *arguments):
        prompts = self.write_lines("in.jsonl", [{"messages": [{"role": "user", "content": q["prompt"]}]} for q in QUESTIONS[::16]])
        done = self.run_sluice("generate", "--model", model, "--prompts", prompts, "--output", self.folder / name,
                               "--max-new-tokens", 48, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [a["text"] for a in self.read_lines(name)]

    def test_a_converted_model_answers_as_one_that_is_quantised_while_loading(self):
        for scheme in ("int8", "int4"):
            out = self.folder / scheme
            done = self.run_sluice("convert", DEMO, out, "--quantize", scheme)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.answers(out, scheme + ".a"), self.answers(DEMO, scheme + ".b", "--quantize", scheme))
            again = self.run_sluice("convert", out, self.folder / "again", "--quantize", scheme)
            self.assertEqual(again.returncode, 2)
            self.assertIn("quantised already", again.stderr)
            self.assertIn("(gptq)" if scheme == "int4" else "(bitsandbytes)", self.run_sluice("info", out).stdout)

    def test_a_model_keeps_its_answers_in_another_dtype_and_in_shards(self):
        out = self.folder / "wide"
        done = self.run_sluice("convert", DEMO, out, "--dtype", "float32", "--shard-gb", 0.004)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((out / "model.safetensors.index.json").exists())
        self.assertEqual(json.loads((out / "config.json").read_text())["torch_dtype"], "float32")
        self.assertEqual(self.answers(out, "a", "--dtype", "bfloat16"), self.answers(DEMO, "b"))

    def test_other_layouts_become_safetensors(self):
        out = self.folder / "nemo"
        done = self.run_sluice("convert", CHECKPOINTS / "nemo/tp2_pp2.nemo", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads((out / "config.json").read_text())["ffn_hidden_size"], 64)
        self.assertTrue((out / "merges.txt").exists() and (out / "vocab.json").exists())
        out = self.folder / "ft"
        self.assertEqual(self.run_sluice("convert", CHECKPOINTS / "faster_transformer", out).returncode, 0)
        self.assertEqual(json.loads((out / "config.json").read_text())["architectures"], ["GPT2LMHeadModel"])
        self.assertTrue((out / "model.safetensors").exists())

    def test_a_folder_that_is_not_empty_is_left_alone(self):
        (self.folder / "full").mkdir()
        (self.folder / "full/file").write_text("x")
        done = self.run_sluice("convert", DEMO, self.folder / "full")
        self.assertEqual(done.returncode, 2)
        self.assertIn("not an empty folder", done.stderr)

    def test_int8_answers_within_a_point_of_the_original(self):
        done = self.run_sluice("bench", "quality", "--model", DEMO, "--questions", ROOT / "tests/models/demo_questions.jsonl",
                               "--json", self.folder / "quality.json", timeout=280)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = {row["scheme"]: row for row in json.loads((self.folder / "quality.json").read_text())}
        self.assertGreater(rows["bfloat16"]["answer_rate"], 0.95)
        self.assertLess(abs(rows["int8"]["answer_rate"] - rows["bfloat16"]["answer_rate"]), 0.01)
        self.assertLess(rows["int8"]["weight_bytes"], 0.65 * rows["bfloat16"]["weight_bytes"])
        self.assertLess(rows["int8"]["perplexity"], 1.02 * rows["bfloat16"]["perplexity"])


if __name__ == "__main__":
    unittest.main()

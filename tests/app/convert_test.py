# SPDX-License-Identifier: Apache-2.0
"""sluice convert, --quantize, and what rounding costs."""
import io
import json
import shutil
import tarfile
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

    def test_models_of_every_layout_answer_as_they_do_when_quantised_while_loading(self):
        for case in ("bloom/plain", "falcon/new_decoder_one_norm", "falcon/alibi", "gemma/gemma2", "gemma/gemma3_nested", "gpt2/masks", "gpt2/twelve_heads", "gpt_neox/parallel",
                     "llama/bare_names", "llama/llama32_tied", "megatron_gpt/rope", "mixtral/plain", "opt/post_norm", "phi/phi2",
                     "phi3/partial", "qwen3/qwen2_moe", "starcoder2/plain", "t5/flan"):
            model, out = self.folder / case.replace("/", "-"), self.folder / (case.replace("/", "-") + "-8")
            model.mkdir()
            for name in ("config.json", "model.safetensors"):
                shutil.copy(ROOT / "tests/golden" / case / name, model)
            config = json.loads((model / "config.json").read_text())
            vocab = config.get("text_config", config)["vocab_size"]
            words = dict(type="WordLevel", vocab={f"t{i}": i for i in range(vocab)}, unk_token="t0")
            (model / "tokenizer.json").write_text(json.dumps(dict(model=words, pre_tokenizer=dict(type="WhitespaceSplit"))))
            prompts = self.write_lines("words.jsonl", [dict(prompt=" ".join(f"t{(i * 7 + 5) % vocab}" for i in range(12)), max_tokens=16, temperature=0, ignore_eos=True)])
            self.assertEqual(self.run_sluice("convert", model, out, "--quantize", "int8").returncode, 0, case)
            texts = []
            for arguments in ((out,), (model, "--quantize", "int8")):
                done = self.run_sluice("generate", "--prompts", prompts, "--output", self.folder / f"words{len(texts)}", "--dtype", "float32", "--max-total-tokens", 64,
                                       "--max-batch-total-tokens", 128, "--max-batch-prefill-tokens", 64, "--threads", 1, "--model", *arguments)
                self.assertEqual(done.returncode, 0, done.stderr)
                texts.append(self.read_lines(f"words{len(texts)}"))
            self.assertEqual(*[[answer["text"] for answer in lines] for lines in texts], case)

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
        # As the archive itself, whose tokenizer is inside. Its vocabulary pads: a smaller tokenizer rules.
        archive = self.folder / "letters.nemo"
        rows = json.loads((out / "config.json").read_text())["padded_vocab_size"]
        letters = {chr(97 + i): i for i in range(rows - 3)}
        with tarfile.open(CHECKPOINTS / "nemo/tp2_pp2.nemo") as old, tarfile.open(archive, "w") as new:
            for member in old.getmembers():
                content = old.extractfile(member).read()
                if member.name.endswith("vocab.json"):
                    content = json.dumps(letters).encode()
                    member.size = len(content)
                new.addfile(member, io.BytesIO(content))
        self.assertEqual(self.run_sluice("convert", archive, self.folder / "letters").returncode, 0)
        prompts = self.write_lines("nemo.jsonl", [{"prompt": "abca", "max_tokens": 12}, {"prompt": "dab", "max_tokens": 12, "num_beams": 2}])
        texts = []
        for model in (archive, self.folder / "letters"):
            done = self.run_sluice("generate", "--model", model, "--prompts", prompts, "--output", self.folder / f"nemo{len(texts)}")
            self.assertEqual(done.returncode, 0, done.stderr)
            texts.append([a["text"] for a in self.read_lines(f"nemo{len(texts)}")])
        self.assertEqual(texts[0], texts[1])
        self.assertEqual([len(t) for t in texts[0]], [12, 12])
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

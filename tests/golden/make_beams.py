# SPDX-License-Identifier: Apache-2.0
"""Makes beams.json in the golden folders of CASES: what transformers' beam search finds with their checkpoints.

    python tests/golden/make_beams.py        # environment as in make_llama.py

A list of searches: the arguments of generate(), `prompt` (of the encoder where the model has one), and what came out: `answers`, a list of
generated tokens each, best first, and `scores`.
"""
import json
import pathlib

import torch
import transformers
from safetensors import safe_open

HERE = pathlib.Path(__file__).resolve().parent
CASES = ["llama/llama2_gqa", "llama/mistral_window", "t5/flan", "t5/tied"]
SEARCHES = [
    dict(num_beams=4, num_return_sequences=4),
    dict(num_beams=3, num_return_sequences=1, length_penalty=2.0),
    dict(num_beams=4, num_return_sequences=2, length_penalty=-0.5, early_stopping=True),
    dict(num_beams=5, num_return_sequences=5, length_penalty=0.0, early_stopping="never"),
    dict(num_beams=4, num_return_sequences=3, length_penalty=1.5, early_stopping="never"),
    dict(num_beams=4, num_return_sequences=4, early_stopping=True),
    dict(num_beams=8, num_return_sequences=8, repetition_penalty=1.2),
    dict(num_beams=4, num_return_sequences=2, no_repeat_ngram_size=2, min_new_tokens=6),
    dict(num_beams=12, num_return_sequences=12),
]
MOST = 24


def outcomes(model, prompt, eos, search):
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=MOST,
                         eos_token_id=eos, pad_token_id=0, do_sample=False, return_dict_in_generate=True, output_scores=True,
                         output_logits=True, **search)
    skip = 1 if model.config.is_encoder_decoder else len(prompt)
    answers = []
    for row, beams in zip(out.sequences, out.beam_indices):
        answers.append([int(t) for t in row[skip:skip + int((beams >= 0).sum())]])
    return answers, [float(s) for s in out.sequences_scores]


def main():
    assert transformers.__version__ == "4.57.1", transformers.__version__
    for case in CASES:
        folder = HERE / case
        config = transformers.AutoConfig.from_pretrained(folder)
        kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=getattr(config, "decoder_start_token_id", None))
        with safe_open(folder / "golden.safetensors", "pt") as golden:
            prompt = golden.get_tensor("encoder" if config.is_encoder_decoder else "prompt").tolist()
        found = []
        for at, search in enumerate(SEARCHES):
            # Tokens that beams come by are the ends, so that searches end in several ways.
            n_eos = [1, 2, 1, 3, 2, 1, 1, 1, 3][at]
            free, _ = outcomes(model, prompt, config.vocab_size - 1, search)
            seen = sorted({t for answer in free for t in answer[4:]} - {0})
            eos = seen[at % 3::max(1, len(seen) // n_eos)][:n_eos]
            answers, scores = outcomes(model, prompt, eos, search)
            found.append(dict(prompt=prompt, max_new_tokens=MOST, eos_token_id=eos, **search, answers=answers, scores=scores))
            print(case, search, "eos", eos, "lengths", [len(a) for a in answers], "scores", [round(s, 3) for s in scores[:3]])
        (folder / "beams.json").write_text(json.dumps(found, indent=None, separators=(",", ":")).replace("},{", "},\n{") + "\n")


main()

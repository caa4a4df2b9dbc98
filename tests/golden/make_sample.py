# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/sample/cases.json: rows of logits, and what is left of them under the logits processors of transformers, alone and
together, in the order in which generate() applies them. Many scores are equal.

    pip install transformers==4.57.1 torch
    python tests/golden/make_sample.py

"logprobs" holds, by id, the log probability of each token that is left. Sorts are stable here: the order in which torch.sort leaves equal
scores depends on the processor.
"""
import json
import pathlib
import random

import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parent / "sample"
VOCAB = 20
EOS = [1, 7]
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCAB, n_layer=1, n_head=1, n_embd=4))
chance = random.Random(7)
cases = []
sort = torch.sort
torch.sort = lambda *args, **kwargs: sort(*args, **{"stable": True, **kwargs})


def logits(step):
    """Multiples of `step`: the larger it is, the more scores are equal."""
    return [round(chance.gauss(0, 2) / step) * step for _ in range(VOCAB)]


def case(row, prompt, output, options):
    config = transformers.GenerationConfig(eos_token_id=EOS, pad_token_id=0, **{"do_sample": False, **options})
    config._eos_token_tensor = torch.tensor(EOS)
    for name in ("bos", "pad", "decoder_start"):
        setattr(config, f"_{name}_token_tensor", None)
    context = torch.tensor([prompt + output])
    processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt), encoder_input_ids=context[:, :len(prompt)],
                                             prefix_allowed_tokens_fn=None, logits_processor=transformers.LogitsProcessorList(), device="cpu")
    left = torch.log_softmax(processors(context, torch.tensor([row])), -1)[0]
    if left.isnan().any():  # decay of an end that may not come yet: -inf + inf
        return
    logprobs = {str(i): round(float(left[i]), 6) for i in range(VOCAB) if left[i] > -float("inf")}
    cases.append({"logits": row, "prompt": prompt, "output": output, "options": options, "logprobs": logprobs})


def ids(n):
    return [chance.randrange(4) if chance.random() < 0.6 else chance.randrange(VOCAB) for _ in range(n)]


def some(n):
    return chance.sample(range(VOCAB), n)


drawn = {
    "temperature": lambda: chance.choice((0.5, 0.8, 1.5)), "top_k": lambda: chance.choice((1, 2, 5, 19)),
    "top_p": lambda: chance.choice((0.1, 0.5, 0.9, 0.99)), "min_p": lambda: chance.choice((0.02, 0.1, 0.5, 1.0)),
    "typical_p": lambda: chance.choice((0.1, 0.3, 0.7, 0.95)), "epsilon_cutoff": lambda: chance.choice((0.01, 0.05, 0.3, 0.9)),
    "eta_cutoff": lambda: chance.choice((0.01, 0.1, 0.5, 0.9))}
scored = {
    "repetition_penalty": lambda: chance.choice((0.8, 1.2, 2.0)), "no_repeat_ngram_size": lambda: chance.choice((1, 2, 3)),
    "bad_words_ids": lambda: [[i] for i in some(1) if i not in EOS] + [ids(2), ids(3)], "min_new_tokens": lambda: chance.choice((2, 9)),
    "exponential_decay_length_penalty": lambda: (chance.choice((0, 2, 5)), chance.choice((1.1, 1.7))), "suppress_tokens": lambda: some(3),
    "begin_suppress_tokens": lambda: some(3), "forced_eos_token_id": lambda: chance.choice((1, [1, 7]))}


def draw(names):
    """Options by name, a row, a prompt and what was answered so far."""
    options = {name: {**drawn, **scored}[name]() for name in names}
    prompt, output = ids(chance.randrange(4, 9)), ids(chance.choice((0, 0, 1, 4, 8)))
    if any(name in drawn for name in names):
        options = {"do_sample": True, "top_k": 0, **options}
    if "forced_eos_token_id" in names:
        options["max_length"] = len(prompt) + len(output) + chance.choice((1, 1, 2))
    return logits(chance.choice((0.25, 1.0, 2.0))), prompt, output, options


for name in (*drawn, *scored):
    for _ in range(8):
        case(*draw([name]))
case([1.0] * VOCAB, [3, 4, 5, 6], [], {"do_sample": True, "top_k": 0, "typical_p": 0.5})
case([1.0] * VOCAB, [3, 4, 5, 6], [], {"do_sample": True, "top_k": 3})
case([1.0] * VOCAB, [3, 4, 5, 6], [], {"do_sample": True, "top_k": 0, "eta_cutoff": 0.3, "epsilon_cutoff": 0.3})
for prompt, output in (([3], []), ([3, 4], []), ([3], [4]), ([5, 3], [4])):  # words that are longer, as long and shorter than what came
    case([1.0] * VOCAB, prompt, output, {"bad_words_ids": [[8], [3, 9], [3, 4, 10], [4, 11]]})
case(logits(1.0), [3], [], {"forced_bos_token_id": 4})
case(logits(1.0), [3], [2], {"forced_bos_token_id": 4})
for _ in range(80):
    case(*draw(chance.sample([*drawn, *scored], chance.randrange(2, 6))))
OUT.mkdir(exist_ok=True)
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
(OUT / "cases.json").write_text(f'{{"transformers": "{transformers.__version__}", "eos": {EOS}, "cases": [\n{lines}\n]}}\n')
print(len(cases), "cases")

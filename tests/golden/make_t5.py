# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/t5/<case>/: tiny random T5 checkpoints with reference logits and greedy tokens.

    python tests/golden/make_t5.py [CASE...]        # no case named: all of them; environment as in make_llama.py

golden.safetensors holds, beside what make_llama.py describes, `encoder` I64 [n], the ids that pass the encoder, and `free_greedy` I64 [64],
the greedy continuation of the decoder's start token alone. `prompt` is what the decoder begins with; `logits` and `greedy` follow from it.
Weights are stored as bf16; the reference is f32 arithmetic on them. The case "flan" has a tokenizer too, and answers.json: prompts with
their ids, and the ids and text of 20 greedy tokens.
"""
import json
import pathlib
import shutil
import sys

import make_llama
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration

OUT = pathlib.Path(__file__).resolve().parent / "t5"
BASE = dict(vocab_size=96, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=3, pad_token_id=0, eos_token_id=1,
            decoder_start_token_id=0, dropout_rate=0.0)
# name -> (keys, prompt length of the encoder). Distances reach the last buckets only where the prompt is longer than 128.
CASES = {
    # FLAN-T5: gated, a head of its own; nh * d_kv is the width.
    "flan": (dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False), 140),
    # The first T5: relu, tied and scaled. Stacks of unequal depth, nh * d_kv is not the width, and other buckets.
    "tied": (dict(feed_forward_proj="relu", tie_word_embeddings=True, d_model=20, d_kv=4, num_heads=4, num_layers=3,
                  relative_attention_num_buckets=8, relative_attention_max_distance=20), 30),
}


def randomize(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if p.dim() == 1:
            v = 1.0 + 0.25 * r
        elif "relative_attention_bias" in name:
            v = 1.0 * r
        elif "shared" in name or "lm_head" in name:
            v = (0.4 if model.config.tie_word_embeddings else 0.7) * r  # a tied head finds the last token again
        elif name.endswith((".q.weight", ".k.weight")):
            v = r * (0.9 / p.shape[1] ** 0.5)  # scores are not scaled
        else:
            v = r * (1.3 / p.shape[1] ** 0.5)
        p.data.copy_(v.bfloat16().float())
    model.tie_weights()


def reference(model, encoder, start, steps):
    with torch.no_grad():
        states = model.encoder(torch.tensor([encoder]))
        run = lambda ids: model(encoder_outputs=states, decoder_input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        first = run(start)
        ids, greedy, margins, last = list(start), [], [], first[-1]
        for _ in range(steps):
            top = last.topk(2)
            greedy.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            ids.append(greedy[-1])
            last = run(ids)[-1]
    return first, greedy, margins


def usable(greedy, margins):
    return min(margins) > make_llama.MARGIN and not set(greedy) & {0, 1, 2} and len(set(greedy)) >= 6


def promising(model, encoders, starts):
    """Numbers of the rows whose greedy continuation looks usable, by the quick way of a batch and a cache."""
    n = starts.shape[1]
    with torch.no_grad():
        states, ids, margins, cache = model.encoder(encoders), starts, [], None
        for _ in range(make_llama.STEPS):
            out = model(encoder_outputs=states, decoder_input_ids=ids if cache is None else ids[:, -1:], past_key_values=cache, use_cache=True)
            cache, top = out.past_key_values, out.logits[:, -1].float().topk(2)
            margins.append(top.values[:, 0] - top.values[:, 1])
            ids = torch.cat([ids, top.indices[:, :1]], 1)
    rows, margins = ids[:, n:].tolist(), torch.stack(margins, 1).tolist()
    return {i for i in range(len(rows)) if usable(rows[i], margins[i])}


def write_tokenizer(folder, size):
    """Unigram: letters, common pairs and whole words; `</s>` ends every prompt."""
    pieces = ["<pad>", "</s>", "<unk>", "▁"] + list("abcdefghijklmnopqrstuvwxyz.,?:!")
    pieces += ["▁" + w for w in ("the", "a", "to", "of", "in", "is", "it", "and", "that", "for", "what", "translate", "english", "german",
                                 "question", "answer", "house", "small", "river", "city", "name", "who", "how", "not")]
    pieces += ["er", "in", "th", "an", "re", "on", "at", "en", "nd", "ti", "es", "or", "te", "ed", "is", "it", "al", "ar", "st", "to", "nt",
               "ng", "se", "ha", "ou", "io", "le", "ve", "co", "me", "de", "hi", "ri", "ro", "ic", "ne", "ea"]
    assert len(pieces) == len(set(pieces)) == size, (len(pieces), size)
    tok = Tokenizer(models.Unigram([(p, 0.0 if i < 3 else -2.0 - 0.01 * i + len(p)) for i, p in enumerate(pieces)], unk_id=2, byte_fallback=False))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="T5Tokenizer", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"), separators=(",", ": "), sort_keys=True) + "\n")
    return tok


def write_answers(folder, model, tok):
    answers = []
    for subject in ("the house", "a river", "that city", "who", "what", "the small name", "question: the answer"):
        for rest in (" is small.", " and how?", " is not in the river,", " to the city!", ": translate it to german.", " of a name"):
            ids = tok.encode(subject + rest).ids
            _, greedy, margins = reference(model, ids, [0], 20)
            if min(margins) > make_llama.MARGIN and not set(greedy) & {0, 1, 2} and len(set(greedy)) >= 4:
                answers.append(dict(prompt=subject + rest, prompt_ids=ids, ids=greedy, text=tok.decode(greedy)))
    assert len(answers) >= 3, len(answers)
    (folder / "answers.json").write_text("[\n" + ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers[:4]) + "\n]\n")


def write_case(name):
    keys, length = CASES[name]
    cfg = T5Config(**{**BASE, **keys})
    for seed in range(1, 2000):
        model = T5ForConditionalGeneration._from_config(cfg, attn_implementation="eager").float().eval()
        randomize(model, seed)
        g = torch.Generator().manual_seed(1000 + seed)
        draw = lambda n: torch.randint(3, cfg.vocab_size, (64, n), generator=g)
        encoders = torch.cat([draw(length - 1), torch.ones(64, 1, dtype=torch.long)], 1)
        starts = torch.cat([torch.zeros(64, 1, dtype=torch.long), draw(23)], 1)
        both = promising(model, encoders, torch.zeros(64, 1, dtype=torch.long)) & promising(model, encoders, starts)
        if not both:
            continue
        encoder, start = encoders[min(both)].tolist(), starts[min(both)].tolist()
        _, free, free_margins = reference(model, encoder, [0], make_llama.STEPS)
        logits, greedy, margins = reference(model, encoder, start, make_llama.STEPS)
        if usable(greedy, margins) and usable(free, free_margins):
            break
    else:
        raise SystemExit(f"{name}: no seed gives margins above {make_llama.MARGIN}")
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    gold = dict(encoder=torch.tensor(encoder), prompt=torch.tensor(start), logits=logits.contiguous(), greedy=torch.tensor(greedy),
                margins=torch.tensor(margins), free_greedy=torch.tensor(free))
    model.bfloat16().save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    path = out / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))
    path.write_text(json.dumps(config, separators=(",", ": "), sort_keys=True) + "\n")
    again = T5ForConditionalGeneration.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    logits2, greedy2, _ = reference(again, encoder, start, make_llama.STEPS)
    assert torch.equal(logits2, gold["logits"]) and greedy2 == greedy, f"{name}: files and memory differ"
    cached = again.generate(torch.tensor([encoder]), max_new_tokens=make_llama.STEPS, min_new_tokens=make_llama.STEPS, do_sample=False)
    assert cached[0, 1:].tolist() == free, f"{name}: generate with a cache differs"
    if name == "flan":
        write_answers(out, again, write_tokenizer(out, cfg.vocab_size))
    save_file(gold, out / "golden.safetensors", metadata={
        "generator": "tests/golden/make_t5.py", "transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    print(f"{name}: seed {seed}, minimal margin {min(margins):.4f}, distinct {len(set(greedy))}, "
          f"logits std {float(gold['logits'].std()):.2f}, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB", flush=True)


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write_case(case)

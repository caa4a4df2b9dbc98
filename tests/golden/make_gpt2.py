# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/gpt2/<case>/: tiny random GPT-2 checkpoints with reference logits and greedy tokens.

Rerun from the repository root, in a Python environment with the pinned packages:
    pip install torch transformers==4.57.1 safetensors numpy
    python tests/golden/make_gpt2.py [CASE...]        # no case named: all of them

Files and contents of a case are those of tests/golden/make_llama.py. "twelve_heads" also has vocab.json and merges.txt: a byte-level
vocabulary without tokenizer.json, as the first GPT-2 checkpoints came.
"""
import json
import shutil
import sys

import make_llama  # first: it sets the environment that torch reads
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2TokenizerFast

OUT = make_llama.OUT.parent / "gpt2"
BASE = dict(n_embd=16, n_head=4, n_layer=2, n_positions=160, vocab_size=96, bos_token_id=1, eos_token_id=2)

# name -> (changes to BASE, options: prompt length, file dtype, extra)
CASES = {
    "plain": ({}, {}),
    # As the small published model: tp 8 has to pad heads. The vocabulary does not divide either.
    "twelve_heads": (dict(n_embd=48, n_head=12, n_inner=52, vocab_size=291, bos_token_id=290, eos_token_id=290), dict(tokenizer=True)),
    # Scores of layer i are divided by i + 1; another width and another activation of the feed-forward part.
    "inverse_layer": (dict(scale_attn_by_inverse_layer_idx=True, n_inner=40, activation_function="gelu"), {}),
    "unscaled": (dict(scale_attn_weights=False), dict(weights_of="plain")),
    # A head of its own; the sizes under their common names.
    "untied": (dict(tie_word_embeddings=False), dict(common_names=True)),
    # As on the Hub: names of the bare model, causal masks in the file, no dtype in the config.
    "masks": ({}, dict(masks=True)),
    "bf16": (dict(n_embd=32), dict(dtype=torch.bfloat16)),
}
COMMON_NAMES = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_positions": "max_position_embeddings"}


def randomize(model, seed):
    """Scales at which every tensor shows in the logits: a wrong norm, bias, position or head order cannot hide."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if ".ln_" in name and name.endswith("weight"):
            v = 1.0 + 0.25 * r
        elif name.endswith(".bias"):
            v = 0.3 * r
        elif "wte" in name or "wpe" in name or "lm_head" in name:
            v = 0.35 * r
        else:
            v = r * (1.3 / p.shape[0] ** 0.5)
        p.data.copy_(v)
    model.tie_weights()


def usable(greedy, margins):
    return min(margins) > make_llama.MARGIN and not set(greedy) & {0, 1, 2, 290} and len(set(greedy)) >= 10


def write_tokenizer(folder):
    """290 entries: bytes, merges of common pairs, and the end of text."""
    merges = ["Ġ t", "h e", "i n", "Ġt he", "e r", "o n", "Ġ a", "r e", "a t", "e n", "o r", "# #", "i s", "Ġ s", "e s", "a n", "in g",
              "an d", "Ġ b", "e d", "i t", "Ġ c", "l l", "o u", "Ġ w", "a l", "0 0", "1 9", "Ġ Ġ", "ĠĠ ĠĠ", "! !", "Ċ Ċ", "Ã ©", "s t"]
    vocab = sorted(ByteLevel.alphabet()) + [m.replace(" ", "") for m in merges] + ["<|endoftext|>"]
    assert len(vocab) == len(set(vocab)) == 291
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tok = GPT2TokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    assert tok("the ##ing").input_ids and len(tok) == 291


def edit_config(path, options):
    cfg = json.loads(path.read_text())
    cfg["torch_dtype"] = cfg.pop("dtype", cfg.get("torch_dtype"))  # the key nearly all published checkpoints use
    if options.get("masks"):
        del cfg["torch_dtype"]
    if options.get("common_names"):
        for own, common in COMMON_NAMES.items():
            cfg[common] = cfg.pop(own)
    path.write_text(json.dumps(cfg, separators=(",", ": "), sort_keys=True) + "\n")


def write_case(name):
    changes, options = CASES[name]
    cfg = GPT2Config(**{**BASE, **changes}, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    dtype = options.get("dtype", torch.float32)
    twin = OUT / options["weights_of"] if "weights_of" in options else None
    own = make_llama.seed_of(twin) if twin is not None else None
    for seed in range(1, 400):
        model = AutoModelForCausalLM.from_config(cfg, attn_implementation="eager").float().eval()
        randomize(model, own or seed)
        model.to(dtype).float()  # what the file will hold, widened
        g = torch.Generator().manual_seed(1000 + seed)
        prompt = torch.randint(3, min(290, cfg.vocab_size), (options.get("prompt", 32),), generator=g).tolist()
        logits, greedy, margins = make_llama.reference(model, prompt)
        if usable(greedy, margins):
            break
    else:
        raise SystemExit(f"{name}: no seed gives margins above {make_llama.MARGIN}")
    gold = dict(prompt=torch.tensor(prompt), logits=logits.contiguous(), greedy=torch.tensor(greedy), margins=torch.tensor(margins))

    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=cfg.bos_token_id, eos_token_id=cfg.eos_token_id)
    model.to(dtype).save_pretrained(out)
    if twin is not None:
        make_llama.share_weights(out, twin)
    edit_config(out / "config.json", options)
    if options.get("masks"):
        file = out / "model.safetensors"
        t = {k.removeprefix("transformer."): v for k, v in load_file(file).items()}
        for i in range(cfg.n_layer):
            t[f"h.{i}.attn.bias"] = torch.tril(torch.ones(1, 1, 40, 40))
            t[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        save_file(t, file, metadata={"format": "pt"})
    if options.get("tokenizer"):
        write_tokenizer(out)

    # The written files, read back by transformers, must give the same numbers.
    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    logits2, greedy2, _ = make_llama.reference(again, prompt)
    assert torch.equal(logits2, gold["logits"]) and greedy2 == greedy, f"{name}: files and memory differ"
    if dtype != torch.float32:
        native = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, attn_implementation="eager").eval()
        nl, ng, nm = make_llama.reference(native, prompt)
        gold.update(native_logits=nl.contiguous(), native_greedy=torch.tensor(ng), native_margins=torch.tensor(nm))
    if options.get("masks"):  # changes nothing
        plain = load_file(OUT / "plain/golden.safetensors")
        assert all(torch.equal(plain[k], v) for k, v in gold.items())
        return (out / "golden.safetensors").symlink_to("../plain/golden.safetensors")
    save_file(gold, out / "golden.safetensors", metadata={
        "generator": "tests/golden/make_gpt2.py", "transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    print(f"{name}: seed {seed}, minimal margin {min(margins):.4f}, distinct {len(set(greedy))}, "
          f"logits std {float(gold['logits'].std()):.2f}, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB", flush=True)


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write_case(case)

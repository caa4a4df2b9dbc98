# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/llama/<case>/: tiny random Llama-family checkpoints with reference logits and greedy tokens.

Rerun from the repository root, in a Python environment with the pinned packages:
    pip install torch transformers==4.57.1 safetensors numpy
    python tests/golden/make_llama.py [CASE...]        # no case named: all of them

Each case holds config.json, generation_config.json, model.safetensors (or shards and an index) and golden.safetensors:
    prompt   I64 [n]      token ids
    logits   F32 [n, V]   at every position; half-precision weights are widened to f32 first
    greedy   I64 [64]     greedy continuation; end-of-sequence is ignored, and no id of 0..2 is among them
    margins  F32 [64]     top-1 minus top-2 logit of each greedy step, each above 5e-3 (seeds are tried until so)
Half-precision cases but those of STORED add native_logits, native_greedy and native_margins, computed in the checkpoint's own dtype.
The metadata of golden.safetensors names the package versions and the seed. All is computed on one CPU thread, with eager attention.
"""
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("DNNL_MAX_CPU_ISA", "AVX512_CORE")  # the same half-precision products on every machine, with or without AMX

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).resolve().parent / "llama"
STEPS = 64
MARGIN = 5e-3
BASE = dict(
    hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=96, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
    tie_word_embeddings=False,
)


def rope_llama3(factor, original):
    return dict(rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=original)


STORED = dict(dtype=torch.bfloat16, native=False)  # in half the space; the reference computes in f32 on the widened weights

# name -> (config class, changes to BASE, options: prompt length, file dtype, shards, extra)
CASES = {
    # Llama 1: as many KV heads as query heads, eps 1e-6; the file carries the rotary_emb.inv_freq tensors of old conversions.
    "llama1": (LlamaConfig, dict(num_key_value_heads=4, rms_norm_eps=1e-6), dict(inv_freq=True, **STORED)),
    # Llama 2 70B: grouped queries. An entry for every byte, so that tests can hold its answers to grammars.
    "llama2_gqa": (LlamaConfig, dict(hidden_size=64, intermediate_size=48, num_attention_heads=8, num_key_value_heads=2, vocab_size=256), {}),
    # Llama 3.1: of eight frequencies two stay, two are smoothed and four are divided; the prompt is longer than the original context.
    "llama31_rope": (LlamaConfig, dict(head_dim=16, num_attention_heads=2, num_key_value_heads=1, intermediate_size=8, rope_theta=300.0,
                                       rope_scaling=rope_llama3(8.0, 64), max_position_embeddings=512), dict(prompt=80)),
    "sharded": (LlamaConfig, {}, dict(shards=3)),
    "rope_linear": (LlamaConfig, dict(rope_scaling=dict(rope_type="linear", factor=4.0)), STORED),
    # The prompt is longer than the window of 16 keys.
    "mistral_window": (MistralConfig, dict(intermediate_size=48, sliding_window=16, head_dim=8), dict(prompt=48)),
    "qwen2": (Qwen2Config, dict(tie_word_embeddings=True, rope_theta=1000000.0, rms_norm_eps=1e-6, use_sliding_window=False,
                                sliding_window=8, max_window_layers=2), {}),
    # The first layer sees all keys, the second a window of 8: two kinds of cache.
    "qwen2_window": (Qwen2Config, dict(tie_word_embeddings=True, rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=8,
                                       max_window_layers=1), dict(weights_of="qwen2")),
    # Nothing divides by 2 and 4: parallel runs have to pad heads, columns and vocabulary.
    "odd_counts": (LlamaConfig, dict(hidden_size=36, intermediate_size=26, num_attention_heads=6, num_key_value_heads=3,
                                     vocab_size=131), {}),
    # config.json says tied, the file holds a different lm_head.weight: the file wins.
    "tie_contradicted": (LlamaConfig, {}, dict(claim_tied=True, files_of="sharded")),
    # A file written from the bare base model: names without "model.", tied head.
    "bare_names": (LlamaConfig, dict(tie_word_embeddings=True), dict(bare=True, **STORED)),
    # The layout of newer configs: "dtype" and "rope_parameters" instead of "torch_dtype", "rope_theta" and "rope_scaling".
    "rope_parameters": (LlamaConfig, dict(rope_theta=100.0, rope_scaling=rope_llama3(4.0, 32)),
                        dict(rope_parameters=True, prompt=48, weights_of="rope_linear", **STORED)),
    "bf16": (LlamaConfig, dict(hidden_size=48, num_attention_heads=6), dict(dtype=torch.bfloat16)),
    "f16": (LlamaConfig, {}, dict(dtype=torch.float16)),
    "bf16_qwen2": (Qwen2Config, dict(tie_word_embeddings=True, rms_norm_eps=1e-6, use_sliding_window=False), dict(dtype=torch.bfloat16)),
}


def randomize(model, seed):
    """Scales at which every tensor shows in the logits: a wrong norm, bias or head order cannot hide."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight"):
            v = 1.0 + 0.25 * r
        elif name.endswith(".bias"):
            v = 0.3 * r
        elif "embed_tokens" in name or "lm_head" in name:
            v = 0.35 * r
        else:
            v = r * (1.3 / p.shape[1] ** 0.5)
        p.data.copy_(v)
    model.tie_weights()


def check_bands(cfg):
    """A llama3 case is only worth its name if frequencies are kept, smoothed and divided."""
    plain = cfg.rope_theta ** (-torch.arange(0, cfg.head_dim, 2).float() / cfg.head_dim)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](cfg, "cpu")
    ratio = (scaled / plain * cfg.rope_scaling["factor"]).tolist()
    kept = sum(r > cfg.rope_scaling["factor"] * 0.999 for r in ratio)
    divided = sum(r < 1.001 for r in ratio)
    assert kept and divided and kept + divided < len(ratio), ratio


def reference(model, prompt):
    """Logits at every prompt position, 64 greedy ids, and the margin of each; one full pass per step, no cache."""
    with torch.no_grad():
        first = model(torch.tensor([prompt]), use_cache=False).logits[0].float()
        ids, greedy, margins, last = list(prompt), [], [], first[-1]
        for _ in range(STEPS):
            top = last.topk(2)
            greedy.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            ids.append(greedy[-1])
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    return first, greedy, margins


def usable(greedy, margins):
    return min(margins) > MARGIN and not set(greedy) & {0, 1, 2} and len(set(greedy)) >= 10


def edit_config(path, options):
    cfg = json.loads(path.read_text())
    if options.get("claim_tied"):
        cfg["tie_word_embeddings"] = True
    if options.get("rope_parameters"):
        scaling = cfg.pop("rope_scaling")
        cfg["rope_parameters"] = {"rope_theta": cfg.pop("rope_theta"), **scaling}
    else:
        cfg["torch_dtype"] = cfg.pop("dtype", cfg.get("torch_dtype"))  # the key nearly all published checkpoints use
    if options.get("bare"):
        cfg["architectures"] = ["LlamaModel"]
    path.write_text(json.dumps(cfg, separators=(",", ": "), sort_keys=True) + "\n")


def link_case(name, twin):
    """The weights and the golden values of another case of the same model, under a config of its own."""
    assert CASES[name][:2] == CASES[twin][:2], f"{name} and {twin} are not the same model"
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in sorted((OUT / twin).iterdir()):
        if ".safetensors" in file.name:
            (out / file.name).symlink_to(f"../{twin}/{file.name}")
        else:
            shutil.copy(file, out / file.name)
    edit_config(out / "config.json", CASES[name][2])


def seed_of(folder):
    """The seed that another case's weights were made from."""
    with safe_open(folder / "golden.safetensors", "pt") as file:
        return int(file.metadata()["seed"])


def share_weights(out, twin):
    """One file for two cases that differ in their config alone."""
    file = out / "model.safetensors"
    assert file.read_bytes() == (twin / file.name).read_bytes(), f"{out.name}: not the weights of {twin.name}"
    file.unlink()
    file.symlink_to(f"../{twin.name}/{file.name}")


def write_case(name):
    cls, changes, options = CASES[name]
    if "files_of" in options:
        return link_case(name, options["files_of"])
    cfg = cls(**{**BASE, **changes})
    if (getattr(cfg, "rope_scaling", None) or {}).get("rope_type") == "llama3":
        check_bands(cfg)
    cfg._attn_implementation = "eager"
    dtype = options.get("dtype", torch.float32)
    has_native = dtype != torch.float32 and options.get("native", True)
    twin = OUT / options["weights_of"] if "weights_of" in options else None
    own = seed_of(twin) if twin is not None else None
    for seed in range(1, 400):
        model = AutoModelForCausalLM.from_config(cfg, attn_implementation="eager").float().eval()
        randomize(model, own or seed)
        model.to(dtype).float()  # what the file will hold, widened
        for module in model.modules():  # buffers must not pass through half precision
            if hasattr(module, "original_inv_freq"):
                module.inv_freq, module.attention_scaling = module.rope_init_fn(cfg, "cpu")
        g = torch.Generator().manual_seed(1000 + seed)
        prompt = [1] + torch.randint(3, cfg.vocab_size, (options.get("prompt", 40) - 1,), generator=g).tolist()
        logits, greedy, margins = reference(model, prompt)
        if not usable(greedy, margins):
            continue
        gold = dict(prompt=torch.tensor(prompt), logits=logits.contiguous(), greedy=torch.tensor(greedy), margins=torch.tensor(margins))
        break
    else:
        raise SystemExit(f"{name}: no seed gives margins above {MARGIN}")

    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2)
    saved = model.to(dtype)
    if options.get("bare"):
        saved.model.save_pretrained(out)
        saved.generation_config.save_pretrained(out)
    else:
        size = sum(p.numel() * p.element_size() for p in saved.parameters())
        limit = int(size / options["shards"] * 1.12) if "shards" in options else 10**12
        saved.save_pretrained(out, max_shard_size=limit)
    if options.get("inv_freq"):
        file = out / "model.safetensors"
        t = load_file(file)
        for i in range(cfg.num_hidden_layers):
            t[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = saved.model.rotary_emb.inv_freq.clone()
        save_file(t, file, metadata={"format": "pt"})
    if twin is not None:
        share_weights(out, twin)
    edit_config(out / "config.json", options)

    # The written files, read back by transformers, must give the same numbers (where its own rules agree with ours).
    if not options.get("rope_parameters"):
        again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
        logits2, greedy2, _ = reference(again, prompt)
        assert torch.equal(logits2, gold["logits"]) and greedy2 == greedy, f"{name}: files and memory differ"
        sdpa = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="sdpa").eval()
        cached = sdpa.generate(torch.tensor([prompt]), max_new_tokens=STEPS, do_sample=False, min_new_tokens=STEPS, pad_token_id=0)
        assert cached[0, len(prompt):].tolist() == greedy, f"{name}: generate with a cache differs"
        if has_native:
            native = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, attn_implementation="eager").eval()
            nl, ng, nm = reference(native, prompt)
            gold.update(native_logits=nl.contiguous(), native_greedy=torch.tensor(ng), native_margins=torch.tensor(nm))
    save_file(gold, out / "golden.safetensors", metadata={
        "generator": "tests/golden/make_llama.py", "transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    files = sorted(p.name for p in out.glob("*.safetensors"))
    if "shards" in options:
        assert len([f for f in files if f.startswith("model-")]) == options["shards"], files
    note = ""
    if has_native:
        note = f", native differs by up to {float((gold['native_logits'] - gold['logits']).abs().max()):.3f}"
    print(f"{name}: seed {seed}, minimal margin {min(margins):.4f}, distinct {len(set(greedy))}, "
          f"logits std {float(gold['logits'].std()):.2f}, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB{note}", flush=True)


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write_case(case)

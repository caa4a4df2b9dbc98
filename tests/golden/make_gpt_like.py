# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/{bloom,falcon,gpt_neox,opt,megatron_gpt,starcoder2}/<case>/: tiny random checkpoints with reference logits and greedy tokens.

Rerun from the repository root, in a Python environment with the pinned packages:
    pip install torch transformers==4.57.1 safetensors numpy
    python tests/golden/make_gpt_like.py [FAMILY/CASE...]        # none named: all of them

The files are as make_llama.py describes them. Weights are stored as bf16 to keep them small; logits and greedy tokens are those of f32
arithmetic on them. Attention is eager, except with ALiBi in Falcon, where transformers adds the bias twice in eager attention: there sdpa.
Megatron's checkpoints are GPT-2 and Llama models under Megatron's names, with q, k and v of each group of heads beside each other and
more vocabulary rows than tokens.
"""
import json
import pathlib
import shutil
import sys

import make_llama
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BloomConfig, FalconConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, Starcoder2Config
from transformers.modeling_utils import no_init_weights

OUT = pathlib.Path(__file__).resolve().parent
IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
BLOOM = dict(vocab_size=96, hidden_size=24, n_layer=2, n_head=6, **IDS)
FALCON = dict(vocab_size=96, hidden_size=28, num_hidden_layers=2, num_attention_heads=7, bos_token_id=1, eos_token_id=2)
NEOX = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
            bos_token_id=1, eos_token_id=2)
OPT = dict(vocab_size=96, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=160, **IDS)
GPT2 = dict(vocab_size=96, n_embd=24, n_layer=2, n_head=3, n_positions=160, n_inner=48, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=1, eos_token_id=2)
LLAMA = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
             head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)

# family/case -> (config class, keys, options)
CASES = {
    # Six heads: slopes beyond a power of two, and nothing divides by 4.
    "bloom/plain": (BloomConfig, BLOOM, {}),
    # The residual goes on from the norms' outputs.
    "bloom/residual_from_norm": (BloomConfig, {**BLOOM, "hidden_size": 16, "n_head": 4,
                                               "apply_residual_connection_post_layernorm": True}, dict(distinct=3)),
    # 7B: seven query heads share one key head.
    "falcon/multi_query": (FalconConfig, FALCON, {}),
    # 40B: groups of four query heads, two norms.
    "falcon/new_decoder": (FalconConfig, {**FALCON, "hidden_size": 32, "num_attention_heads": 8, "num_kv_heads": 2,
                                          "new_decoder_architecture": True}, {}),
    # Falcon 2: one norm for both, three groups.
    "falcon/new_decoder_one_norm": (FalconConfig, {**FALCON, "hidden_size": 24, "num_attention_heads": 6, "num_kv_heads": 3,
                                                   "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, {}),
    # RW: ALiBi, sequential, biases, a key head per query head.
    "falcon/alibi": (FalconConfig, {**FALCON, "hidden_size": 24, "num_attention_heads": 6, "alibi": True, "bias": True,
                                    "multi_query": False, "parallel_attn": False}, dict(attention="sdpa", prompt=80, distinct=6)),
    "gpt_neox/parallel": (GPTNeoXConfig, NEOX, {}),
    "gpt_neox/sequential": (GPTNeoXConfig, {**NEOX, "hidden_size": 24, "num_attention_heads": 3, "rotary_pct": 0.5,
                                            "rotary_emb_base": 500, "use_parallel_residual": False, "hidden_act": "gelu_fast",
                                            "attention_bias": False}, {}),
    "opt/pre_norm": (OPTConfig, OPT, {}),
    # 350m: norms after the blocks, none at the end, narrow embeddings.
    "opt/post_norm": (OPTConfig, {**OPT, "hidden_size": 24, "num_attention_heads": 3, "do_layer_norm_before": False,
                                  "word_embed_proj_dim": 16}, dict(distinct=4)),
    # Galactica: gelu, neither biases nor weights of norms.
    "opt/bare": (OPTConfig, {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu",
                             "tie_word_embeddings": False}, {}),
    "starcoder2/plain": (Starcoder2Config, dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                                num_key_value_heads=2, max_position_embeddings=256, sliding_window=12, residual_dropout=0.0,
                                                bos_token_id=1, eos_token_id=2), {}),
    "megatron_gpt/learned": (GPT2Config, GPT2, dict(megatron=dict(normalization="layernorm1p"))),
    # Grouped queries, rotation, gated MLP in one matrix, RMS norms, a head of its own.
    "megatron_gpt/rope": (LlamaConfig, LLAMA, dict(megatron=dict(normalization="rmsnorm", activation="fast-swiglu",
                                                                 position_embedding_type="rope", bias=False,
                                                                 share_embeddings_and_output_weights=False))),
}


def randomize(model, seed):
    """Scales at which every tensor shows in the logits: a wrong norm, bias, slope or head order cannot hide."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if p.dim() == 1:
            v = 1.0 + 0.25 * r if name.endswith("weight") else 0.3 * r
            if "word_embeddings_layernorm" in name:
                v = 0.3 * v  # or the token itself, which a tied head finds again, drowns the blocks
        elif "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
            v = 0.35 * r
        else:
            v = r * (2.6 / p.shape[0 if ".c_" in name else 1] ** 0.5)  # GPT-2 stores [in, out]
        p.data.copy_(v)
    model.tie_weights()


def usable(greedy, margins, distinct):
    return min(margins) > make_llama.MARGIN and not set(greedy) & {0, 1, 2} and len(set(greedy)) >= distinct


def promising(model, prompts, distinct):
    """The prompts whose greedy continuation looks usable, by the quick way of a batch and a cache."""
    n = len(prompts[0])
    with torch.no_grad():
        ids, margins, cache = torch.tensor(prompts), [], None
        for _ in range(make_llama.STEPS):
            out = model(ids if cache is None else ids[:, -1:], past_key_values=cache, use_cache=True)
            cache, top = out.past_key_values, out.logits[:, -1].float().topk(2)
            margins.append(top.values[:, 0] - top.values[:, 1])
            ids = torch.cat([ids, top.indices[:, :1]], 1)
    margins = torch.stack(margins, 1)
    return [p for p, row, m in zip(prompts, ids[:, n:].tolist(), margins.tolist()) if usable(row, m, distinct)]


def by_group(q, k, v, groups):
    """Rows of q, k and v, those of each group of heads beside each other."""
    parts = [t.reshape(groups, -1, *t.shape[1:]) for t in (q, k, v)]
    return torch.cat(parts, 1).reshape(-1, *q.shape[1:]).contiguous()


def padded(t, rows):
    return torch.cat([t, torch.full((rows - t.shape[0], t.shape[1]), 7.0, dtype=t.dtype)])


def megatron_tensors(model, rows):
    """Tensors and configuration of a GPT-2 or Llama model as Megatron has them."""
    s, c, out = model.state_dict(), model.config, {}
    base, layers = "model.language_model.", "model.language_model.encoder.layers."
    if c.model_type == "gpt2":
        out[base + "embedding.word_embeddings.weight"] = padded(s["transformer.wte.weight"], rows)
        out[base + "embedding.position_embeddings.weight"] = s["transformer.wpe.weight"]
        for end in ("weight", "bias"):
            out[f"{base}encoder.final_layernorm.{end}"] = s[f"transformer.ln_f.{end}"] - float(end == "weight")
            for i in range(c.n_layer):
                old, new = f"transformer.h.{i}.", f"{layers}{i}."
                turned = lambda name: s[old + name + "." + end].t().contiguous() if end == "weight" else s[old + name + "." + end]
                out[f"{new}self_attention.query_key_value.{end}"] = by_group(*turned("attn.c_attn").chunk(3, 0), c.n_head)
                for ours, theirs in (("self_attention.dense", "attn.c_proj"), ("mlp.dense_h_to_4h", "mlp.c_fc"), ("mlp.dense_4h_to_h", "mlp.c_proj")):
                    out[f"{new}{ours}.{end}"] = turned(theirs)
                for ours, theirs in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
                    out[f"{new}{ours}.{end}"] = s[f"{old}{theirs}.{end}"] - float(end == "weight")  # layernorm1p stores weight - 1
    else:
        out[base + "embedding.word_embeddings.weight"] = padded(s["model.embed_tokens.weight"], rows)
        out[base + "output_layer.weight"] = padded(s["lm_head.weight"], rows)
        out[base + "encoder.final_layernorm.weight"] = s["model.norm.weight"]
        for i in range(c.num_hidden_layers):
            old, new = f"model.layers.{i}.", f"{layers}{i}."
            qkv = [s[f"{old}self_attn.{x}_proj.weight"] for x in "qkv"]
            out[new + "self_attention.query_key_value.weight"] = by_group(*qkv, c.num_key_value_heads)
            out[new + "self_attention.dense.weight"] = s[old + "self_attn.o_proj.weight"]
            out[new + "input_layernorm.weight"] = s[old + "input_layernorm.weight"]
            out[new + "post_attention_layernorm.weight"] = s[old + "post_attention_layernorm.weight"]
            out[new + "mlp.dense_h_to_4h.weight"] = torch.cat([s[old + "mlp.gate_proj.weight"], s[old + "mlp.up_proj.weight"]])
            out[new + "mlp.dense_4h_to_h.weight"] = s[old + "mlp.down_proj.weight"]
    return out


def megatron_config(c, keys, rows):
    gpt2 = c.model_type == "gpt2"
    out = dict(architectures=["MegatronGPTModel"], torch_dtype="bfloat16", vocab_size=c.vocab_size, padded_vocab_size=rows,
               hidden_size=c.hidden_size, num_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads,
               ffn_hidden_size=c.n_inner if gpt2 else c.intermediate_size, max_position_embeddings=c.max_position_embeddings,
               layernorm_epsilon=1e-5, eos_token_id=2, bos_token_id=1, **keys)
    if not gpt2:
        out.update(num_query_groups=c.num_key_value_heads, kv_channels=c.head_dim)
    return out


def write_case(name):
    cls, keys, options = CASES[name]
    attention = options.get("attention", "eager")
    cfg = cls(**keys)
    distinct = options.get("distinct", 10)  # ids of a continuation; some layouts repeat themselves whatever their weights
    half = "layernorm1p" not in options.get("megatron", {}).values()  # weight - 1 has more digits than bf16
    for seed in range(1, 2000):
        with no_init_weights():  # which fails on norms without weights
            model = AutoModelForCausalLM.from_config(cfg, attn_implementation=attention).float().eval()
        randomize(model, seed)
        if half:
            for p in model.parameters():
                p.data.copy_(p.data.bfloat16().float())
        g = torch.Generator().manual_seed(1000 + seed)
        found = promising(model, torch.randint(3, cfg.vocab_size, (64, options.get("prompt", 32)), generator=g).tolist(), distinct)
        if not found:
            continue
        prompt = found[0]
        logits, greedy, margins = make_llama.reference(model, prompt)
        if usable(greedy, margins, distinct):
            break
    else:
        raise SystemExit(f"{name}: no seed gives margins above {make_llama.MARGIN}")
    gold = dict(prompt=torch.tensor(prompt), logits=logits.contiguous(), greedy=torch.tensor(greedy), margins=torch.tensor(margins))

    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2)
    if "megatron" in options:
        rows = 128
        tensors = megatron_tensors(model, rows)
        config = megatron_config(cfg, options["megatron"], rows)
        if half:
            tensors = {k: v.bfloat16() for k, v in tensors.items()}
        else:
            config["torch_dtype"] = "float32"
        save_file({k: v.contiguous() for k, v in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})
        (out / "config.json").write_text(json.dumps(config, separators=(",", ": "), sort_keys=True) + "\n")
    else:
        model.bfloat16().save_pretrained(out)
        (out / "generation_config.json").unlink()
        path = out / "config.json"
        config = json.loads(path.read_text())
        config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))
        path.write_text(json.dumps(config, separators=(",", ": "), sort_keys=True) + "\n")
        # The written files, read back by transformers, must give the same numbers.
        again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation=attention).eval()
        logits2, greedy2, _ = make_llama.reference(again, prompt)
        assert torch.equal(logits2, gold["logits"]) and greedy2 == greedy, f"{name}: files and memory differ"
    save_file(gold, out / "golden.safetensors", metadata={
        "generator": "tests/golden/make_gpt_like.py", "transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    print(f"{name}: seed {seed}, minimal margin {min(margins):.4f}, distinct {len(set(greedy))}, "
          f"logits std {float(gold['logits'].std()):.2f}, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB", flush=True)


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write_case(case)

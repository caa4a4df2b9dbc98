# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/{mixtral,qwen3,gemma,phi,phi3,gpt_oss,llama}/<case>/ for the cases below: tiny random checkpoints with reference logits and
greedy tokens, in the layout of make_llama.py, whose environment and helpers this shares.

    python tests/golden/make_decoders.py [FAMILY/CASE...]        # none named: all of them

Files are stored in bf16 where a case says so; the reference then computes in f32 on the widened weights.
"""
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("DNNL_MAX_CPU_ISA", "AVX512_CORE")

import torch
import transformers
from make_llama import MARGIN, STEPS, check_bands, reference, rope_llama3, seed_of, share_weights, usable
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig, GptOssConfig, LlamaConfig, MixtralConfig, Phi3Config,
                          PhiConfig, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig)
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

OUT = pathlib.Path(__file__).resolve().parent
BASE = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
            max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
ODD = dict(hidden_size=36, intermediate_size=30, num_attention_heads=6, num_key_value_heads=3, vocab_size=95)
BF16 = dict(dtype=torch.bfloat16)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=1.0, truncate=False)


def longrope(n):
    return dict(type="longrope", short_factor=[1.0 + 0.15 * i for i in range(n)], long_factor=[1.0 + 1.5 * i for i in range(n)])


# family/case -> (config class, changes to BASE, options: prompt length, file dtype, ...)
CASES = {
    # nh * hd is not the hidden size.
    "llama/head_dim": (LlamaConfig, dict(head_dim=24), BF16),
    # Llama 3.2: tied, factor 32.
    "llama/llama32_tied": (LlamaConfig, dict(tie_word_embeddings=True, head_dim=16, rope_theta=500000.0, rope_scaling=rope_llama3(32.0, 40),
                                             max_position_embeddings=1280), dict(prompt=56, **BF16)),
    "llama/biases": (LlamaConfig, dict(attention_bias=True, mlp_bias=True), BF16),
    "llama/rope_yarn": (LlamaConfig, dict(head_dim=16, rope_theta=100.0, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=1.0)), dict(prompt=48, **BF16)),
    # The prompt ends before the original context; generation goes beyond it, and each key keeps the rotation of its time.
    "llama/rope_dynamic": (LlamaConfig, dict(max_position_embeddings=64, rope_scaling=dict(rope_type="dynamic", factor=4.0)),
                           dict(prompt=40, cached=True, **BF16)),
    # The prompt is longer than the original context.
    "llama/rope_dynamic_long": (LlamaConfig, dict(max_position_embeddings=32, rope_theta=100.0,
                                                  rope_scaling=dict(rope_type="dynamic", factor=8.0)),
                                dict(prompt=48, cached=True, weights_of="rope_dynamic", **BF16)),
    "mixtral/plain": (MixtralConfig, dict(num_local_experts=4, num_experts_per_tok=2, head_dim=8), BF16),
    # Heads, experts and widths that do not divide, and a window that the prompt crosses.
    "mixtral/odd_window": (MixtralConfig, dict(num_local_experts=5, num_experts_per_tok=3, sliding_window=16, head_dim=6, **ODD), dict(prompt=44, **BF16)),
    "qwen3/dense": (Qwen3Config, dict(head_dim=12, rope_theta=1e6, tie_word_embeddings=True), BF16),
    # The second layer slides.
    "qwen3/window": (Qwen3Config, dict(head_dim=8, use_sliding_window=True, sliding_window=12, max_window_layers=1), dict(prompt=44, **BF16)),
    "qwen3/moe": (Qwen3MoeConfig, dict(head_dim=12, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True,
                                       decoder_sparse_step=1, mlp_only_layers=[]), BF16),
    # A dense and a sparse layer, weights that are not normalised, odd counts.
    "qwen3/moe_mixed": (Qwen3MoeConfig, dict(ODD, head_dim=8, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=22, norm_topk_prob=False,
                                             decoder_sparse_step=1, mlp_only_layers=[0]), BF16),
    "qwen3/qwen2_moe": (Qwen2MoeConfig, dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=28,
                                             norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[]), BF16),
    "gemma/gemma1": (GemmaConfig, dict(head_dim=16, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh"), BF16),
    # Caps small enough to show, a scale of its own, windows on even layers.
    "gemma/gemma2": (Gemma2Config, dict(num_hidden_layers=3, head_dim=12, tie_word_embeddings=True, query_pre_attn_scalar=20, sliding_window=16,
                                        attn_logit_softcapping=3.0, final_logit_softcapping=5.0), dict(prompt=44, outweigh=True, **BF16)),
    "gemma/gemma2_odd": (Gemma2Config, dict(ODD, head_dim=8, tie_word_embeddings=True, query_pre_attn_scalar=8, sliding_window=512,
                                            attn_logit_softcapping=20.0, final_logit_softcapping=None), BF16),
    # Two kinds of layers with rotations of their own, the global ones scaled.
    "gemma/gemma3": (Gemma3TextConfig, dict(num_hidden_layers=4, head_dim=16, tie_word_embeddings=True, query_pre_attn_scalar=16, sliding_window=12,
                                            sliding_window_pattern=2, rope_theta=1e6, rope_local_base_freq=100.0,
                                            rope_scaling=dict(rope_type="linear", factor=4.0)), dict(prompt=44, pattern=2, outweigh=True, **BF16)),
    # As published with images: names and config of the text model one level down.
    "gemma/gemma3_nested": (Gemma3TextConfig, dict(head_dim=8, tie_word_embeddings=True, query_pre_attn_scalar=8, sliding_window=12,
                                                   sliding_window_pattern=2), dict(prompt=30, pattern=2, nested=True, outweigh=True, **BF16)),
    # Short factors; part of the head is rotated.
    "phi3/partial": (Phi3Config, dict(head_dim=16, hidden_size=64, partial_rotary_factor=0.75, original_max_position_embeddings=256,
                                      rope_scaling=longrope(6)), BF16),
    # Generation crosses the original context: all is computed again with long factors. The reference is the forward pass over all
    # tokens; generate() leaves cache_position at one element where it drops the cache, so that its recomputed rows see later ones.
    "phi3/crossing": (Phi3Config, dict(original_max_position_embeddings=64, rope_scaling=longrope(4)), dict(prompt=40, alike=25)),
    "phi3/long": (Phi3Config, dict(ODD, head_dim=6, original_max_position_embeddings=32, rope_scaling=longrope(3)), dict(prompt=48, **BF16)),
    "phi3/window": (Phi3Config, dict(sliding_window=16), dict(prompt=40, **BF16)),
    "phi/phi2": (PhiConfig, dict(num_key_value_heads=4, hidden_size=40, partial_rotary_factor=0.4, hidden_act="gelu_new", intermediate_size=60), BF16),
    # Norms of single heads before they are rotated.
    "phi/head_norms": (PhiConfig, dict(ODD, hidden_size=48, partial_rotary_factor=0.5, hidden_act="gelu_new", qk_layernorm=True), BF16),
    # Sinks, windows on even layers, a ramp of yarn with fractional ends.
    "gpt_oss/plain": (GptOssConfig, dict(ODD, vocab_size=47, hidden_size=24, intermediate_size=20, head_dim=6, num_local_experts=3, num_experts_per_tok=2,
                                         sliding_window=16, rope_theta=100.0, rope_scaling=YARN), dict(prompt=44, **BF16)),
    # As published: experts in blocks of 4-bit floats.
    "gpt_oss/mxfp4": (GptOssConfig, dict(vocab_size=48, head_dim=8, num_local_experts=3, num_experts_per_tok=2, sliding_window=128,
                                         rope_theta=100.0, rope_scaling=YARN), dict(mxfp4=True, **BF16)),
    "phi/odd": (PhiConfig, dict(ODD, hidden_size=48, partial_rotary_factor=0.5, hidden_act="gelu_new"), BF16),
}


def randomize(model, seed, gemma, outweigh):
    """Scales at which every tensor shows in the logits. Routers are wide enough for clear choices."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if outweigh and "post_" in name:  # blocks outweigh the tied embedding
            v = 1.0 + 0.25 * r
        elif name.endswith("norm.weight") or name.endswith("layernorm.weight"):
            v = 0.25 * r if gemma else 1.0 + 0.25 * r
        elif name.endswith("bias"):
            v = 0.3 * r
        elif name.endswith("sinks"):
            v = 1.0 + r
        elif "embed_tokens" in name or "lm_head" in name:
            v = (0.12 if gemma else 0.35) * r
        elif name.endswith(("gate.weight", "router.weight")):
            v = r * (2.0 / p.shape[1] ** 0.5)
        else:
            v = r * (1.3 / p.shape[1] ** 0.5)
        p.data.copy_(v)
    model.tie_weights()


E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4(matrices):
    """[experts, in, out] as blocks [experts, out, in / 32, 16] and scales [experts, out, in / 32]: a power of two for 32 floats e2m1."""
    w = matrices.float().transpose(1, 2)
    groups = w.reshape(*w.shape[:2], -1, 32)
    exponent = (groups.abs().amax(-1) / 6).log2().ceil().clamp(-127, 127)
    codes = (groups / exponent.exp2()[..., None])[..., None].sub(E2M1).abs().argmin(-1).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + 127).to(torch.uint8)


def round_experts(model):
    for name, p in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")) and p.dim() == 3:
            p.data.copy_(convert_moe_packed_tensors(*mxfp4(p.data), dtype=torch.float32))


def store_mxfp4(out):
    """The layout of the published models."""
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="mxfp4", modules_to_not_convert=[
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"])
    (out / "config.json").write_text(json.dumps(config, separators=(",", ": "), sort_keys=True) + "\n")
    tensors = {}
    for name, t in load_file(out / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = t
            continue
        tensors[name + "_blocks"], tensors[name + "_scales"] = (part.contiguous() for part in mxfp4(t))
        assert torch.equal(convert_moe_packed_tensors(tensors[name + "_blocks"], tensors[name + "_scales"]), t), name
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def reference_cached(model, prompt):
    """As reference(), with a cache: where a key's rotation depends on when it was computed."""
    with torch.no_grad():
        out = model(torch.tensor([prompt]), use_cache=True)
        first = out.logits[0].float()
        greedy, margins, last = [], [], first[-1]
        for _ in range(STEPS):
            top = last.topk(2)
            greedy.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            out = model(torch.tensor([[greedy[-1]]]), past_key_values=out.past_key_values, use_cache=True)
            last = out.logits[0, -1].float()
    return first, greedy, margins


def nest(out):
    """The layout of the published models that also read images."""
    config = json.loads((out / "config.json").read_text())
    whole = dict(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3", torch_dtype=config.pop("torch_dtype"), bos_token_id=1,
                 eos_token_id=2)
    for key in ("architectures", "layer_types", "transformers_version", "bos_token_id", "eos_token_id", "vocab_size"):
        config.pop(key, None)  # what equals the class's defaults, or is told outside, is left out there
    config["vocab_size"] = BASE["vocab_size"]
    whole["text_config"] = config
    (out / "config.json").write_text(json.dumps(whole, separators=(",", ": "), sort_keys=True) + "\n")
    file = out / "model.safetensors"
    tensors = {"language_model." + name: t for name, t in load_file(file).items()}
    tensors["vision_tower.vision_model.embeddings.patch_embedding.bias"] = torch.zeros(4, dtype=torch.bfloat16)
    save_file(tensors, file, metadata={"format": "pt"})


def write_case(name):
    cls, changes, options = CASES[name]
    cfg = cls(**{**BASE, **changes})
    if (getattr(cfg, "rope_scaling", None) or {}).get("rope_type") == "llama3":
        check_bands(cfg)
    gemma = name.startswith("gemma")
    dtype = options.get("dtype", torch.float32)
    compute = reference_cached if options.get("cached") else reference
    twin = (OUT / name).parent / options["weights_of"] if "weights_of" in options else None
    own = seed_of(twin) if twin is not None else None
    for seed in range(1, 600):
        model = AutoModelForCausalLM.from_config(cfg, attn_implementation="eager").float().eval()
        randomize(model, own or seed, gemma, options.get("outweigh"))
        if options.get("mxfp4"):
            round_experts(model)
        model.to(dtype).float()
        for module in model.modules():  # buffers must not pass through half precision
            if hasattr(module, "original_inv_freq"):
                module.inv_freq, module.attention_scaling = module.rope_init_fn(module.config, "cpu")
                module.original_inv_freq = module.inv_freq
            if hasattr(module, "embed_scale"):
                module.embed_scale = torch.tensor(cfg.hidden_size ** 0.5)
        g = torch.Generator().manual_seed(1000 + seed)
        prompt = [1] + torch.randint(3, cfg.vocab_size, (options.get("prompt", 32) - 1,), generator=g).tolist()
        logits, greedy, margins = compute(model, prompt)
        if usable(greedy, margins):
            break
    else:
        raise SystemExit(f"{name}: no seed gives margins above {MARGIN}")
    gold = dict(prompt=torch.tensor(prompt), logits=logits.contiguous(), greedy=torch.tensor(greedy), margins=torch.tensor(margins))

    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2)
    model.to(dtype).save_pretrained(out)
    if twin is not None:
        share_weights(out, twin)
    config = json.loads((out / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))  # the key nearly all published checkpoints use
    if "pattern" in options:
        config["sliding_window_pattern"] = options["pattern"]
    (out / "config.json").write_text(json.dumps(config, separators=(",", ": "), sort_keys=True) + "\n")

    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    logits2, greedy2, _ = compute(again, prompt)
    assert (logits2 - logits).abs().max() < 1e-5 and greedy2 == greedy, f"{name}: files and memory differ"
    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    cached = again.generate(torch.tensor([prompt]), max_new_tokens=STEPS, do_sample=False, min_new_tokens=STEPS, pad_token_id=0, eos_token_id=None)
    alike = options.get("alike", STEPS)
    assert cached[0, len(prompt):].tolist()[:alike] == greedy[:alike], f"{name}: generate differs"
    if options.get("nested"):
        nest(out)
    if options.get("mxfp4"):
        store_mxfp4(out)
    save_file(gold, out / "golden.safetensors", metadata={
        "generator": "tests/golden/make_decoders.py", "transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)})
    print(f"{name}: seed {seed}, minimal margin {min(margins):.4f}, distinct {len(set(greedy))}, logits std {float(logits.std()):.2f}, "
          f"{sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB", flush=True)


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write_case(case)

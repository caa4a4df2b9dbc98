# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/checkpoints/: tiny checkpoints in other layouts than safetensors, each with expected.safetensors, the
tensors that a reader must find in them.

    pip install torch safetensors numpy
    python tests/golden/make_checkpoints.py

The packing of quantised layers is written here from the formulas of the formats and shares no code with the reader.
"""
import argparse
import collections
import gzip
import io
import json
import pathlib
import pickle
import shutil
import tarfile

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

OUT = pathlib.Path(__file__).resolve().parent / "checkpoints"
RANDOM = np.random.default_rng(5)
torch.manual_seed(5)


def folder(name):
    path = OUT / name
    path.mkdir(parents=True, exist_ok=True)
    return path


# ---- quantised layers -------------------------------------------------------------------------------------------------

def pack_fields(values, bits, axis):
    """Fields of `bits` bits, lowest first, one after the other along `axis`, as int32 words."""
    values = np.moveaxis(values.astype(np.uint64), axis, 0)
    n = values.shape[0]
    words = np.zeros((n * bits // 32,) + values.shape[1:], np.uint64)
    for i in range(n):
        at = i * bits
        word, shift = at // 32, at % 32
        words[word] |= (values[i] << np.uint64(shift)) & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            words[word + 1] |= values[i] >> np.uint64(32 - shift)
    return np.moveaxis(words.astype(np.uint32).view(np.int32), 0, axis)


def gptq_layer(name, out, cols, group, bits, act_order, v2=False):
    groups = cols // group
    q = RANDOM.integers(0, 1 << bits, (cols, out))
    zero = RANDOM.integers(0, 1 << bits, (groups, out))
    scale = RANDOM.uniform(0.01, 0.1, (groups, out)).astype(np.float16)
    g_idx = np.arange(cols, dtype=np.int32) // group
    if act_order:
        g_idx = RANDOM.permutation(g_idx).astype(np.int32)
    stored = zero if v2 else (zero - 1) & ((1 << bits) - 1)
    tensors = {f"{name}.qweight": np.ascontiguousarray(pack_fields(q, bits, 0)),
               f"{name}.qzeros": np.ascontiguousarray(pack_fields(stored, bits, 1)),
               f"{name}.scales": scale, f"{name}.g_idx": g_idx}
    meant = (q - zero[g_idx]).astype(np.float32) * scale[g_idx].astype(np.float32)
    return tensors, {f"{name}.weight": np.ascontiguousarray(meant.T)}


def awq_layer(name, out, cols, group):
    q = RANDOM.integers(0, 16, (cols, out))
    zero = RANDOM.integers(0, 16, (cols // group, out))
    scale = RANDOM.uniform(0.01, 0.1, (cols // group, out)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(values):
        words = np.zeros((values.shape[0], out // 8), np.uint32)
        for nibble, column in enumerate(order):
            words |= values[:, column::8].astype(np.uint32) << np.uint32(4 * nibble)
        return words.view(np.int32)

    tensors = {f"{name}.qweight": pack(q), f"{name}.qzeros": pack(zero), f"{name}.scales": scale}
    g = np.arange(cols) // group
    meant = (q - zero[g]).astype(np.float32) * scale[g].astype(np.float32)
    return tensors, {f"{name}.weight": np.ascontiguousarray(meant.T)}


def rows8_layer(name, out, cols):
    q = RANDOM.integers(-127, 128, (out, cols)).astype(np.int8)
    scb = RANDOM.uniform(0.5, 2.0, out).astype(np.float32)
    return ({f"{name}.weight": q, f"{name}.SCB": scb},
            {f"{name}.weight": q.astype(np.float32) * (scb / np.float32(127))[:, None]})


def fp8_layer(name, out, cols, block, scale_name="weight_scale_inv"):
    """`block`: rows and columns of one scale."""
    rows, across = -(-out // block[0]), -(-cols // block[1])
    weight = torch.randn(out, cols, generator=FP8) * 30
    weight[0, :4] = torch.tensor([448.0, -448.0, 2.0 ** -9, -0.0])
    weight = weight.to(torch.float8_e4m3fn)
    scale = torch.rand(rows, across, generator=FP8) + 0.01
    whole = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:out, :cols]
    if block == (out, cols):
        scale = scale.reshape(())
    return ({f"{name}.weight": weight, f"{name}.{scale_name}": scale, f"{name}.input_scale": torch.ones(())},
            {f"{name}.weight": weight.float() * whole})


FP8 = torch.Generator().manual_seed(8)


def make_fp8():
    layers = [fp8_layer("blocks", 40, 100, (16, 32)), fp8_layer("whole", 24, 64, (24, 64), "weight_scale"),
              fp8_layer("rows", 24, 64, (1, 64), "weight_scale")]
    stored, meant = {}, {}
    for a, b in layers:
        stored.update(a)
        meant.update(b)
    save_torch(stored, str(folder("quantised/fp8") / "model.safetensors"))
    save_torch(meant, str(folder("quantised/fp8") / "expected.safetensors"))


def make_quantised():
    cases = {
        "gptq": [gptq_layer("a", 32, 128, 32, 4, False), gptq_layer("b", 64, 128, 32, 4, False)],
        "gptq_act": [gptq_layer("a", 32, 128, 32, 4, True), gptq_layer("b", 64, 128, 32, 4, True)],
        "gptq_v2": [gptq_layer("a", 32, 128, 128, 4, False, True)],
        "gptq3": [gptq_layer("a", 32, 128, 32, 3, False)],
        "gptq2": [gptq_layer("a", 32, 128, 64, 2, False)],
        "gptq8": [gptq_layer("a", 32, 128, 64, 8, False)],
        "awq": [awq_layer("a", 32, 128, 32), awq_layer("b", 64, 128, 32)],
        "rows8": [rows8_layer("a", 24, 100)],
    }
    del cases["gptq_v2"], cases["gptq2"]  # tests/model/quantised_files.h has them; drawn, so that the others stay
    for name, layers in cases.items():
        tensors, meant = {}, {}
        for stored, expected in layers:
            tensors.update(stored)
            meant.update(expected)
        save_numpy(tensors, str(folder("quantised/" + name) / "model.safetensors"))
        save_numpy(meant, str(folder("quantised/" + name) / "expected.safetensors"))


# ---- torch files ------------------------------------------------------------------------------------------------------

class Forbidden:
    def __reduce__(self):
        return (print, ("this must not run",))


def make_bin():
    base = torch.randn(6, 8)
    weights = collections.OrderedDict([
        ("model.embed.weight", torch.randn(5, 4, dtype=torch.float32)),
        ("half", torch.randn(3, 4).half()), ("brain", torch.randn(7).bfloat16()),
        ("double", torch.randn(2, 2).double()), ("empty", torch.zeros(0, 3)), ("scalar", torch.tensor(1.5)),
        ("shared", base), ("part", base[2:4]), ("columns", base[:, 1:5]),
        ("parameter", torch.nn.Parameter(torch.randn(4))), ("old.LayerNorm.gamma", torch.randn(3)),
    ])
    expected = {name.replace("LayerNorm.gamma", "LayerNorm.weight"): t.detach().clone().contiguous() for name, t in weights.items()}
    path = folder("bin")
    save_torch(expected, str(path / "expected.safetensors"))
    torch.save(weights, folder("bin/zip") / "pytorch_model.bin")
    torch.save(weights, folder("bin/legacy") / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"nested": {"a": torch.arange(3.0)}}, "epoch": 3}, folder("bin/nested") / "pytorch_model.bin")
    names = list(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[:6], "pytorch_model-00002-of-00002.bin": names[6:]}
    for file, held in shards.items():
        torch.save(collections.OrderedDict((n, weights[n]) for n in held), folder("bin/sharded") / file)
    index = {"metadata": {}, "weight_map": {n.replace("LayerNorm.gamma", "LayerNorm.weight"): f for f, held in shards.items() for n in held}}
    (folder("bin/sharded") / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"w": torch.zeros(2), "bad": Forbidden()}, folder("bin/forbidden") / "pytorch_model.bin")
    torch.save({"w": base.t()}, folder("bin/transposed") / "pytorch_model.bin")


# ---- .nemo ------------------------------------------------------------------------------------------------------------

CONFIG = """# written by a dump of OmegaConf
micro_batch_size: 1
encoder_seq_length: 32
max_position_embeddings: ${.encoder_seq_length}
num_layers: 4
hidden_size: 16
ffn_hidden_size: ${multiply:4, ${.hidden_size}}
num_attention_heads: 4
normalization: layernorm
layernorm_epsilon: 1.0e-05
bias_activation_fusion: true
share_embeddings_and_output_weights: true
tokenizer:
  library: megatron
  type: GPT2BPETokenizer
  vocab_file: nemo:0123_vocab.json
  merge_file: 'nemo:0123_merges.txt'
optim:
  betas:
  - 0.9
  - 0.98
  sched: {name: "CosineAnnealing", warmup_steps: 500}
target: nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel
"""
LAYERS, HIDDEN, VOCAB, POSITIONS = 4, 16, 64, 32
PREFIX = "model.language_model."


def megatron_weights():
    out = {PREFIX + "embedding.word_embeddings.weight": torch.randn(VOCAB, HIDDEN),
           PREFIX + "embedding.position_embeddings.weight": torch.randn(POSITIONS, HIDDEN),
           PREFIX + "encoder.final_layernorm.weight": torch.randn(HIDDEN), PREFIX + "encoder.final_layernorm.bias": torch.randn(HIDDEN)}
    for i in range(LAYERS):
        at = f"{PREFIX}encoder.layers.{i}."
        for name, shape in [("input_layernorm.weight", (HIDDEN,)), ("input_layernorm.bias", (HIDDEN,)),
                            ("self_attention.query_key_value.weight", (3 * HIDDEN, HIDDEN)), ("self_attention.query_key_value.bias", (3 * HIDDEN,)),
                            ("self_attention.dense.weight", (HIDDEN, HIDDEN)), ("self_attention.dense.bias", (HIDDEN,)),
                            ("post_attention_layernorm.weight", (HIDDEN,)), ("post_attention_layernorm.bias", (HIDDEN,)),
                            ("mlp.dense_h_to_4h.weight", (4 * HIDDEN, HIDDEN)), ("mlp.dense_h_to_4h.bias", (4 * HIDDEN,)),
                            ("mlp.dense_4h_to_h.weight", (HIDDEN, 4 * HIDDEN)), ("mlp.dense_4h_to_h.bias", (HIDDEN,))]:
            out[at + name] = torch.randn(*shape)
    return out


def rank_share(weights, tp, tps, pp, pps):
    out = collections.OrderedDict()
    for name, t in weights.items():
        if "layers." in name:
            layer = int(name.split("layers.")[1].split(".")[0])
            if layer // (LAYERS // pps) != pp:
                continue
            name = name.replace(f"layers.{layer}.", f"layers.{layer % (LAYERS // pps)}.")
        elif pp != (pps - 1 if "final_layernorm" in name else 0):
            if not (pp == pps - 1 and "word_embeddings" in name):
                continue
        rows = any(part in name for part in ["word_embeddings", "query_key_value", "dense_h_to_4h"])
        columns = name.endswith(("dense.weight", "dense_4h_to_h.weight"))
        out[name] = (t.chunk(tps, 0)[tp] if rows else t.chunk(tps, 1)[tp] if columns else t).clone()
    return out


def add_member(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def saved(weights):
    to = io.BytesIO()
    torch.save(weights, to)
    return to.getvalue()


def write_nemo(path, members):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            add_member(tar, name, content)
        end = tar.offset + 2 * tarfile.BLOCKSIZE  # without the padding to whole records
    data = raw.getvalue()[:end]
    path.write_bytes(gzip.compress(data, 9, mtime=0) if path.name.startswith("gz") else data)


def make_nemo():
    weights = megatron_weights()
    path = folder("nemo")
    save_torch(weights, str(path / "expected.safetensors"))
    tokenizer = [("./0123_vocab.json", b'{"a": 0}'), ("./0123_merges.txt", b"#version: 0.2\n")]
    config = ("./model_config.yaml", CONFIG.encode())
    write_nemo(path / "gz_one.nemo", [("./model_weights.ckpt", saved(rank_share(weights, 0, 1, 0, 1))), config] + tokenizer)
    ranks = [(f"./tp_rank_{t:02d}_pp_rank_{p:03d}/model_weights.ckpt", saved(rank_share(weights, t, 2, p, 2))) for t in range(2) for p in range(2)]
    write_nemo(path / "tp2_pp2.nemo", [config] + ranks + tokenizer)
    write_nemo(path / "unsafe.nemo", [("../model_config.yaml", CONFIG.encode())])
    write_nemo(path / "distributed.nemo", [config, ("./model_weights/metadata.json", b"{}")])


# ---- FasterTransformer ------------------------------------------------------------------------------------------------

def make_faster_transformer():
    """The tiny GPT-2 of tests/golden/gpt2/plain over two ranks; its logits are that case's."""
    from safetensors.torch import load_file
    source = OUT.parent / "gpt2" / "plain"
    config = json.loads((source / "config.json").read_text())
    weights = {n.removeprefix("transformer."): t for n, t in load_file(str(source / "model.safetensors")).items()}
    tp, h = 2, config["n_embd"]
    path = folder("faster_transformer/2-gpu")
    inner = config.get("n_inner") or 4 * h
    (path / "config.ini").write_text(f"""[gpt]
model_name = gpt
head_num = {config["n_head"]}
size_per_head = {h // config["n_head"]}
inter_size = {inner}
num_layer = {config["n_layer"]}
max_pos_seq_len = {config["n_positions"]}
vocab_size = {config["vocab_size"]}
start_id = {config.get("bos_token_id", 0)}
end_id = {config.get("eos_token_id", 0)}
weight_data_type = fp32
tensor_para_size = {tp}
""")

    def write(name, t):
        (path / name).write_bytes(t.contiguous().float().numpy().tobytes())

    write("model.wte.bin", weights["wte.weight"])
    write("model.wpe.bin", weights["wpe.weight"])
    for end in ["weight", "bias"]:
        write(f"model.final_layernorm.{end}.bin", weights[f"ln_f.{end}"])
    for i in range(config["n_layer"]):
        at, to = f"h.{i}.", f"model.layers.{i}."
        for end in ["weight", "bias"]:
            write(f"{to}input_layernorm.{end}.bin", weights[f"{at}ln_1.{end}"])
            write(f"{to}post_attention_layernorm.{end}.bin", weights[f"{at}ln_2.{end}"])
        write(f"{to}attention.dense.bias.bin", weights[at + "attn.c_proj.bias"])
        write(f"{to}mlp.dense_4h_to_h.bias.bin", weights[at + "mlp.c_proj.bias"])
        qkv, qkv_bias = weights[at + "attn.c_attn.weight"].view(h, 3, h), weights[at + "attn.c_attn.bias"].view(3, h)
        for r in range(tp):
            part = slice(r * h // tp, (r + 1) * h // tp)
            write(f"{to}attention.query_key_value.weight.{r}.bin", qkv[:, :, part])
            write(f"{to}attention.query_key_value.bias.{r}.bin", qkv_bias[:, part])
            write(f"{to}attention.dense.weight.{r}.bin", weights[at + "attn.c_proj.weight"][part])
            wide = slice(r * inner // tp, (r + 1) * inner // tp)
            write(f"{to}mlp.dense_h_to_4h.weight.{r}.bin", weights[at + "mlp.c_fc.weight"][:, wide])
            write(f"{to}mlp.dense_h_to_4h.bias.{r}.bin", weights[at + "mlp.c_fc.bias"][wide])
            write(f"{to}mlp.dense_4h_to_h.weight.{r}.bin", weights[at + "mlp.c_proj.weight"][wide])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    make_quantised()
    make_fp8()
    make_bin()
    make_nemo()
    make_faster_transformer()

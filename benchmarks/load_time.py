# SPDX-License-Identifier: Apache-2.0
"""How long a model takes to load: from its checkpoint, and packed by `sluice convert --tp 1`, in turn.

    load_time.py --sluice build/cpu/sluice [--shape tinyllama-1.1b] [--rounds 3] [--threads 2] [--schemes bf16 int8 int4]
                 [--forms checkpoint packed] [--states cold warm] [--device cpu|cuda] [--work FOLDER] [--json FILE]

Random weights of the shape are written once. `cold`: the files are dropped from the page cache before; `warm`: they are
in it. Figures are medians of the seconds that `sluice bench` reports.
"""
import argparse
import array
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess

from common import read_shape, write_byte_tokenizer


def write_checkpoint(folder, shape):
    """Llama in bf16; weights repeat one random tile."""
    width, head = shape["width"], shape["head"]
    names = {"model.embed_tokens.weight": [shape["vocab"], width], "model.norm.weight": [width], "lm_head.weight": [shape["vocab"], width]}
    for i in range(shape["layers"]):
        layer = f"model.layers.{i}."
        names |= {layer + "input_layernorm.weight": [width], layer + "post_attention_layernorm.weight": [width],
                  layer + "self_attn.q_proj.weight": [shape["heads"] * head, width], layer + "self_attn.k_proj.weight": [shape["kv_heads"] * head, width],
                  layer + "self_attn.v_proj.weight": [shape["kv_heads"] * head, width], layer + "self_attn.o_proj.weight": [width, shape["heads"] * head],
                  layer + "mlp.gate_proj.weight": [shape["mlp"], width], layer + "mlp.up_proj.weight": [shape["mlp"], width],
                  layer + "mlp.down_proj.weight": [width, shape["mlp"]]}
    header, at = {}, 0
    for name, dims in names.items():
        size = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    numbers = random.Random(1)
    tile = array.array("H", (0x3C00 + numbers.getrandbits(9) | numbers.getrandbits(1) << 15 for _ in range(1 << 19))).tobytes()
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    write_byte_tokenizer(folder, shape["vocab"])
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for left in range(at, 0, -len(tile)):
            file.write(tile[:left])
        os.fsync(file.fileno())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": shape["vocab"], "hidden_size": width, "head_dim": head,
        "intermediate_size": shape["mlp"], "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "max_position_embeddings": 2048}))


def load(args, folder, options, cold):
    files = list(folder.glob("*.safetensors"))
    for path in files:
        with open(path, "rb") as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass
    report = pathlib.Path(args.work) / "load.json"
    threads = ["--threads", str(args.threads)] if args.device == "cpu" else []
    subprocess.run([args.sluice, "bench", "--model", folder, *options, "--device", args.device, *threads, "--batch", "1", "--prefill", "8",
                    "--repeats", "1", "--seconds", "0.01", "--json", report], check=True, capture_output=True)
    return json.loads(report.read_text())["load_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--shape", default="tinyllama-1.1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--schemes", nargs="+", default=["bf16", "int8", "int4"], choices=["bf16", "int8", "int4"])
    parser.add_argument("--forms", nargs="+", default=["checkpoint", "packed"], choices=["checkpoint", "packed"])
    parser.add_argument("--states", nargs="+", default=["cold", "warm"], choices=["cold", "warm"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--work", default="/tmp/sluice-load-time")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    checkpoint = pathlib.Path(args.work) / args.shape
    if not (checkpoint / "config.json").exists():
        write_checkpoint(checkpoint, read_shape(args.sluice, args.shape))
    size = (checkpoint / "model.safetensors").stat().st_size / 1e9
    results = {}
    for scheme in args.schemes:
        options = [] if scheme == "bf16" else ["--quantize", scheme]
        packed = pathlib.Path(args.work) / f"{args.shape}-{scheme}"
        if "packed" in args.forms and not (packed / "config.json").exists():
            subprocess.run([args.sluice, "convert", checkpoint, packed, "--tp", "1", "--threads", str(args.threads), *options], check=True, capture_output=True)
        loads = {"checkpoint": (checkpoint, options), "packed": (packed, [])}
        for state in args.states:
            rounds = [{form: load(args, *loads[form], state == "cold") for form in args.forms} for _ in range(args.rounds)]
            found = {form: statistics.median(r[form] for r in rounds) for form in args.forms}
            line = f"{scheme:5} {state}" + "".join(f"  {form} {seconds:6.2f} s" for form, seconds in found.items())
            if "checkpoint" in found:
                line += f", {found['checkpoint'] / size:.3f} s per GB of the checkpoint"
            if len(found) == 2:
                line += f"  ratio {statistics.median(r['checkpoint'] / r['packed'] for r in rounds):5.1f}"
            print(line, flush=True)
            results[f"{scheme} {state}"] = found
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

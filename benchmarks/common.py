# SPDX-License-Identifier: Apache-2.0
"""What comparisons with other programs share: a shape's sizes, our own figures, and the table of pairs."""
import json
import pathlib
import re
import statistics
import subprocess
import sys

CONTEXT = 64  # tokens cached before decode is timed, as in `sluice bench`


def read_shape(sluice, name):
    text = subprocess.run([sluice, "info", "--random-init", name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) layers, width (\d+), (\d+) heads, (\d+) key-value heads of (\d+), MLP (\d+), vocabulary (\d+)", text)
    if found is None:
        sys.exit(f"{sluice} info --random-init {name} names no shape")
    keys = ["layers", "width", "heads", "kv_heads", "head", "mlp", "vocab"]
    return dict(zip(keys, map(int, found.groups())))


def byte_vocabulary(size):
    """One token per byte of a prompt; the others are words that no prompt holds."""
    return ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + [f"~{i}" for i in range(259, size)]


def write_byte_tokenizer(folder, size):
    """The same as a tokenizer.json."""
    special = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i, text in enumerate(byte_vocabulary(size)[:3])]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": [],
             "vocab": {text: i for i, text in enumerate(byte_vocabulary(size))}}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                                                       "pre_tokenizer": None, "post_processor": None, "decoder": decoder, "model": model}))


def run_ours(args, options):
    report = pathlib.Path(args.work) / "sluice.json"
    command = [args.sluice, "bench", "--random-init", args.shape, "--dtype", "bf16", *options, "--threads", str(args.threads),
               "--batch", ",".join(map(str, args.batches)), "--prefill", str(args.prefill), "--context", str(CONTEXT),
               "--repeats", "3", "--seconds", str(args.seconds), "--json", str(report)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(report.read_text())
    return {"decode": {row["batch"]: row["tokens_per_s"] for row in found["decode"]},
            "share": {row["batch"]: row["share"] for row in found["decode"]},
            "prefill": found["prefill"][0]["tokens_per_s"], "read_gbps": found["limits"]["read_gbps"]}


def add_arguments(parser):
    parser.add_argument("--sluice", required=True)
    parser.add_argument("--shape", default="tinyllama-1.1b")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", help="file for the figures")


def show(label, peer, args, pairs, results):
    """Prints and keeps the medians of `pairs`, each of our figures and theirs."""
    rows = [(f"decode, batch {size}", [(o["decode"][size], t["decode"][str(size)]) for o, t in pairs]) for size in args.batches]
    rows.append((f"prefill, {args.prefill} tokens", [(o["prefill"], t["prefill"]) for o, t in pairs]))
    for name, values in rows:
        ours, theirs = (statistics.median(v) for v in zip(*values))
        ratio = statistics.median(o / t for o, t in values)
        print(f"{label:5} {name:20} sluice {ours:9.1f}  {peer} {theirs:9.1f} tokens/s  ratio {ratio:5.2f}", flush=True)
        results[f"{label} {name}"] = {"sluice": ours, peer: theirs, "ratio": ratio}
    share = statistics.median(o["share"][args.batches[0]] for o, _ in pairs)
    print(f"{label:5} share of the read bandwidth at batch {args.batches[0]}: {share:.2f}", flush=True)
    results[f"{label} share"] = share

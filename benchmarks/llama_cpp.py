# SPDX-License-Identifier: Apache-2.0
"""Compares `sluice bench` with llama.cpp on one model shape: decode with 1 and 16 sequences, and prefill.

Both run random weights of the same shape with the same number of threads, in turn: a pair is one run of each, and the
figures are medians over pairs. llama.cpp is the library in the package llama-cpp-python; its GGUF files are written here.
benchmarks/llama_cpp.sh makes the environment and calls this file.

    llama_cpp.py --sluice build/cpu/sluice [--shape tinyllama-1.1b] [--pairs 3] [--threads 2]
                 [--formats bf16 q8_0 q4_0] [--work FOLDER] [--json FILE]
"""
import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import time

from common import CONTEXT, add_arguments, byte_vocabulary, read_shape, run_ours, show

OURS = {"bf16": [], "q8_0": ["--quantize", "int8"], "q4_0": ["--quantize", "int4"]}


def add_byte_vocabulary(writer, size):
    tokens = [text.encode() for text in byte_vocabulary(size)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1000.0] * size)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (size - 259))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def write_gguf(path, shape, fmt, vocabulary=False):
    """Weights repeat one random tile: what counts is their number and type."""
    import gguf
    import numpy

    kind = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
            "q4_0": gguf.GGMLQuantizationType.Q4_0}[fmt]
    random = numpy.random.default_rng(1)
    tiles = {}

    def matrix(rows, cols):
        if cols not in tiles:
            tile = random.normal(0, cols ** -0.5, (64, cols)).astype(numpy.float32)
            tiles[cols] = gguf.quants.quantize(tile, kind)
        tile = tiles[cols]
        return numpy.concatenate([tile] * (rows // 64) + [tile[: rows % 64]])

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(shape["width"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["mlp"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_dimension_count(shape["head"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    if vocabulary:
        add_byte_vocabulary(writer, shape["vocab"])
    else:
        writer.add_tokenizer_model("no_vocab")
    h, q, k = shape["width"], shape["heads"] * shape["head"], shape["kv_heads"] * shape["head"]
    ones = numpy.ones(h, numpy.float32)

    def add(name, rows, cols):
        writer.add_tensor(name, matrix(rows, cols), raw_dtype=kind)

    add("token_embd.weight", shape["vocab"], h)
    add("output.weight", shape["vocab"], h)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(shape["layers"]):
        for name, rows, cols in [("attn_q", q, h), ("attn_k", k, h), ("attn_v", k, h), ("attn_output", h, q),
                                 ("ffn_gate", shape["mlp"], h), ("ffn_up", shape["mlp"], h), ("ffn_down", h, shape["mlp"])]:
            add(f"blk.{i}.{name}.weight", rows, cols)
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_peer(path, threads, batches, prefill, seconds):
    """Rates of llama.cpp on the file, in a process of its own."""
    sys.path.remove(str(pathlib.Path(__file__).resolve().parent))  # where this file has the package's name
    import llama_cpp as ll

    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(str(path).encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx = 1024 * max(batches)  # split evenly among the sequences
    params.n_batch = params.n_ubatch = max(prefill, 512)
    params.n_seq_max = max(batches)
    params.n_threads = params.n_threads_batch = threads
    context = ll.llama_init_from_model(model, params)
    memory = ll.llama_get_memory(context)
    batch = ll.llama_batch_init(max(prefill, 512), 0, max(batches))

    def decode(tokens):
        """tokens: (position, sequence, whether its logits are wanted)."""
        batch.n_tokens = len(tokens)
        for i, (position, sequence, wanted) in enumerate(tokens):
            batch.token[i] = (17 + 31 * position + sequence) % 1000
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        if ll.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        ll.llama_synchronize(context)

    out = {"decode": {}, "prefill": 0.0}
    for size in batches:
        ll.llama_memory_clear(memory, True)
        for sequence in range(size):
            decode([(i, sequence, i == CONTEXT - 1) for i in range(CONTEXT)])
        decode([(CONTEXT, s, True) for s in range(size)])
        steps, started = 0, time.monotonic()
        while time.monotonic() - started < seconds:
            steps += 1
            decode([(CONTEXT + steps, s, True) for s in range(size)])
        out["decode"][size] = steps * size / (time.monotonic() - started)
    best = 0.0
    for _ in range(3):
        ll.llama_memory_clear(memory, True)
        started = time.monotonic()
        decode([(i, 0, i == prefill - 1) for i in range(prefill)])
        best = max(best, prefill / (time.monotonic() - started))
    out["prefill"] = best
    print(json.dumps(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--formats", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--work", default="/tmp/sluice-llama-cpp", help="folder for the GGUF files, kept between runs")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return run_peer(args.peer, args.threads, args.batches, args.prefill, args.seconds)

    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    shape = read_shape(args.sluice, args.shape)
    results = {}
    for fmt in args.formats:
        path = work / f"{args.shape}.{fmt}.gguf"
        if not path.exists():
            write_gguf(path.with_suffix(".part"), shape, fmt)
            path.with_suffix(".part").rename(path)
        pairs = []
        for _ in range(args.pairs):
            peer = subprocess.run([sys.executable, __file__, "--sluice", "", "--peer", str(path), "--threads", str(args.threads),
                                   "--batches", *map(str, args.batches), "--prefill", str(args.prefill),
                                   "--seconds", str(args.seconds)], check=True, capture_output=True, text=True)
            theirs = json.loads(peer.stdout.splitlines()[-1])
            pairs.append((run_ours(args, OURS[fmt]), theirs))
        show(fmt, "llama.cpp", args, pairs, results)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Compares `sluice bench` with transformers and CTranslate2 on one model shape: decode with 1 and 16 sequences, and prefill.

Random weights of the same shape, bf16 beside transformers and int8 beside CTranslate2, which has bf16 on few CPUs, the same threads, in turn: a pair is one run of each, and the figures are medians
over pairs. transformers runs compiled with a static cache on a GPU, eager with a growing one on a CPU; CTranslate2 runs on
a CPU.
benchmarks/python_peers.sh makes the environment and calls this file; scripts/gpu-check.sh calls it on a GPU.

    python_peers.py --sluice build/cpu/sluice [--peers transformers ctranslate2] [--device cpu|cuda]
                    [--shape tinyllama-1.1b] [--pairs 3] [--threads 2] [--work FOLDER] [--json FILE]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

from common import CONTEXT, add_arguments, read_shape, run_ours, show, write_byte_tokenizer


MOST_STEPS = 448  # of a static cache, which attends to all its places


def tokens_of(size, rows):
    return [[(17 + 31 * position + row) % 1000 + 259 for position in range(size)] for row in range(rows)]


def make_llama(shape, device):
    import torch
    import transformers

    config = transformers.LlamaConfig(vocab_size=shape["vocab"], hidden_size=shape["width"], intermediate_size=shape["mlp"], num_hidden_layers=shape["layers"],
                                      num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], head_dim=shape["head"],
                                      max_position_embeddings=4096, bos_token_id=1, eos_token_id=2)
    torch.set_default_dtype(torch.bfloat16)
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # before 5.0
        from transformers.modeling_utils import no_init_weights
    with torch.device(device), no_init_weights():
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.02, 0.02)
    return model.eval()


def run_transformers(args, shape):
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    model = make_llama(shape, args.device)
    wait = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)

    def fresh(tokens):
        if args.device == "cpu":
            return transformers.DynamicCache(config=model.config)
        return transformers.StaticCache(config=model.config, max_cache_len=tokens)

    old = int(transformers.__version__.split(".")[0]) < 5  # from 5.0 a cache knows where it is

    def step(forward, cache, tokens, first):
        place = {"cache_position": torch.arange(first, first + tokens.shape[1], device=args.device)} if old else {}
        forward(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **place)

    out = {"decode": {}, "prefill": 0.0}
    with torch.inference_mode():
        for size in args.batches:
            decode = model.forward
            if args.device == "cuda":
                torch._dynamo.reset()  # else a second size is compiled for any size
                decode = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True, dynamic=False)
            cache = fresh(CONTEXT + MOST_STEPS)
            step(model.forward, cache, torch.tensor(tokens_of(CONTEXT, size), device=args.device), 0)
            one = torch.tensor(tokens_of(1, size), device=args.device)
            warm = 4 if args.device == "cuda" else 1
            started = time.monotonic()
            for i in range(warm):
                step(decode, cache, one, CONTEXT + i)
            wait()
            print(f"transformers, batch {size}: warm after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
            steps, started = 0, time.monotonic()
            while time.monotonic() - started < args.seconds and warm + steps < MOST_STEPS:
                step(decode, cache, one, CONTEXT + warm + steps)
                wait()
                steps += 1
            out["decode"][size] = steps * size / (time.monotonic() - started)
            print(f"transformers, batch {size}: {out['decode'][size]:.1f} tokens/s", file=sys.stderr, flush=True)
        prompt = torch.tensor(tokens_of(args.prefill, 1), device=args.device)
        for _ in range(4):  # the first warms up
            cache = fresh(args.prefill)
            started = time.monotonic()
            step(model.forward, cache, prompt, 0)
            wait()
            out["prefill"] = max(out["prefill"], args.prefill / (time.monotonic() - started))
    return out


def convert_for_ctranslate2(args, shape):
    """The same shape as CTranslate2 keeps it, once."""
    import ctranslate2

    folder = pathlib.Path(args.work) / f"{args.shape}.ctranslate2"
    if not folder.exists():
        checkpoint = pathlib.Path(args.work) / f"{args.shape}.checkpoint"
        make_llama(shape, "cpu").save_pretrained(checkpoint)
        write_byte_tokenizer(checkpoint, shape["vocab"])
        (checkpoint / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))
        ctranslate2.converters.TransformersConverter(str(checkpoint), low_cpu_mem_usage=True).convert(f"{folder}.part", quantization="int8", force=True)
        pathlib.Path(f"{folder}.part").rename(folder)
    return folder


def run_ctranslate2(args, shape):
    import ctranslate2

    generator = ctranslate2.Generator(str(convert_for_ctranslate2(args, shape)), device="cpu", compute_type="int8", intra_threads=args.threads, inter_threads=1)

    def seconds(prompts, length):
        words = [[f"~{token}" for token in prompt] for prompt in prompts]
        started = time.monotonic()
        generator.generate_batch(words, max_length=length, min_length=length, include_prompt_in_result=False)
        return time.monotonic() - started

    out = {"decode": {}, "prefill": 0.0}
    for size in args.batches:
        prompts = tokens_of(CONTEXT, size)
        seconds(prompts, 2)
        one = min(seconds(prompts, 2) for _ in range(2))
        steps = max(4, int(args.seconds / max(seconds(prompts, 6) - one, 0.01) * 4))
        out["decode"][size] = steps * size / (seconds(prompts, 2 + steps) - one)
    for _ in range(3):
        out["prefill"] = max(out["prefill"], args.prefill / seconds(tokens_of(args.prefill, 1), 1))
    return out


PEERS = {"transformers": run_transformers, "ctranslate2": run_ctranslate2}
OURS = {"transformers": ("bf16", []), "ctranslate2": ("int8", ["--quantize", "int8"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--work", default="/tmp/sluice-python-peers", help="folder for checkpoints, kept between runs")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = read_shape(args.sluice, args.shape)
    if args.run:
        return print(json.dumps(PEERS[args.run](args, shape)))

    pathlib.Path(args.work).mkdir(parents=True, exist_ok=True)
    results = {}
    for peer in args.peers:
        pairs, (weights, options) = [], OURS[peer]
        for _ in range(args.pairs):
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--run", peer], stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                sys.exit(f"{peer} did not run: its words are above")
            pairs.append((run_ours(args, ["--device", args.device, *options]), json.loads(done.stdout.splitlines()[-1])))
        show(weights, peer, args, pairs, results)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ids and texts of tokenizer_tool beside the `tokenizers` package, over random strings of every pipeline; and speed.

    pip install transformers==4.57.1 tokenizers==0.22.2 jinja2==3.1.6 sentencepiece==0.2.1 protobuf
    python tests/text/compare_tokenizers.py build/cpu/tests/text/tokenizer_tool [--count 20000] [--only NAME ...]
    python tests/text/compare_tokenizers.py build/cpu/tests/text/tokenizer_tool --speed [--seconds 2] [--english FILE]

Pipelines are those of tests/golden (text_pipelines.py, with SentencePiece's whole nmt_nfkc map, and the folders of tests/golden/text). Strings
are drawn from make_text.ALPHABET; each is encoded with and without special tokens, read back, and streamed. --speed trains vocabularies of
32,000 tokens on the text and times both on one thread in turn, then a megabyte without spaces.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_text  # noqa: E402
import text_pipelines  # noqa: E402
from tokenizers import Tokenizer, models as token_models, pre_tokenizers, trainers  # noqa: E402


def ask(tool, folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    out = subprocess.run([tool, folder], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def files(folder):
    """{name: tokenizer.json}, assembled in `folder` or kept in tests/golden."""
    models = text_pipelines.models()
    out = {}
    for name, pipeline in text_pipelines.pipelines(models, text_pipelines.charsmap(normalization_rule_name="nmt_nfkc")).items():
        (folder / name).mkdir()
        out[name] = folder / name / "tokenizer.json"
        out[name].write_text(json.dumps(text_pipelines.assemble(pipeline, models)))
    for path in sorted((GOLDEN / "text").glob("*/tokenizer.json")):
        out[path.parent.name] = path
    return out


def late_break(tok, ids, skip):
    """Streams may send the well-formed beginning of a run of byte tokens that breaks later."""
    run, special = b"", {t.content for t in tok.get_added_tokens_decoder().values() if t.special}
    for i in list(ids) + [None]:
        token = tok.id_to_token(i) if i is not None else ""
        if skip and token in special:
            continue
        if token and len(token) == 6 and token.startswith("<0x"):
            run += bytes([int(token[3:5], 16)])
            continue
        try:
            run.decode()
        except UnicodeDecodeError:
            return True
        run = b""
    return False


def compare(tool, name, path, count):
    tok, rng = Tokenizer.from_file(str(path)), random.Random(name)
    added = [t.content for t in tok.get_added_tokens_decoder().values()]
    alphabet = make_text.ALPHABET + added * 2 + ["word", "the house", "a", "b", "Abc", "ABC", "x"]
    texts = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 14))) for _ in range(count)]
    size, questions, expected, drawn = tok.get_vocab_size(), [], [], []
    for n, text in enumerate(texts):
        special, skip = n % 2 == 0, n % 3 == 0
        ids = tok.encode(text, add_special_tokens=special).ids
        questions.append(dict(text=text, special=special))
        expected.append(ids)
        if n % 4 == 3:
            ids = [rng.randrange(size) for _ in range(rng.randint(1, 12))]
        questions.append(dict(ids=ids, skip=skip))
        expected.append(tok.decode(ids, skip_special_tokens=skip))
        drawn.append(ids)
    faults = 0
    for n, (question, want, got) in enumerate(zip(questions, expected, ask(tool, path.parent, questions))):
        right = got == want if "text" in question else got["text"] == want
        streamed = "text" in question or got["streamed"] == got["text"] or late_break(tok, question["ids"], question["skip"])
        if not right or not streamed:
            faults += 1
            if faults <= 3:
                print(f"{name}: {json.dumps(question)[:600]}\n  want {json.dumps(want)[:600]}\n  got  {json.dumps(got)[:900]}")
    print(f"{name}: {count} strings, {sum(len(e) for e in expected[::2])} ids, {faults} faults", flush=True)
    return faults


def english(path):
    if path:
        return pathlib.Path(path).read_text()
    # Docstrings of Python's own library: prose and code, on every machine that runs this script.
    import ast
    out = []
    for source in sorted(pathlib.Path(os.__file__).parent.glob("**/*.py")):
        if "site-packages" in str(source) or "test" in source.parts:
            continue
        try:
            tree = ast.parse(source.read_text())
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                out.append(ast.get_docstring(node) or "")
    return "\n\n".join(d for d in out if len(d) > 40)


def speed(tool, folder, seconds, text):
    paragraphs = [p for p in text.split("\n\n") if p]
    size = sum(len(p.encode()) for p in paragraphs)
    corpus = folder / "english.txt"
    corpus.write_text("\n\n".join(paragraphs))
    print(f"English text: {size / 1e6:.2f} MB in {len(paragraphs)} paragraphs")
    alphabet, models = pre_tokenizers.ByteLevel.alphabet(), {}
    for key, model, trainer, pre in [
            ("bytes", token_models.BPE(), trainers.BpeTrainer(vocab_size=32000, show_progress=False, initial_alphabet=alphabet), pre_tokenizers.ByteLevel(add_prefix_space=False)),
            ("spm", token_models.BPE(), trainers.BpeTrainer(vocab_size=32000, show_progress=False), pre_tokenizers.Metaspace()),
            ("unigram", token_models.Unigram(), trainers.UnigramTrainer(vocab_size=32000, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"), pre_tokenizers.Metaspace()),
            ("wordpiece", token_models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=32000, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), pre_tokenizers.BertPreTokenizer())]:
        tok = Tokenizer(model)
        tok.pre_tokenizer = pre
        tok.train_from_iterator(paragraphs, trainer)
        models[key] = json.loads(tok.to_str())["model"]
    models["bytes_whole"] = dict(models["bytes"], ignore_merges=True)
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocab = first + [t for t in models["spm"]["vocab"] if t not in first]
    models["spm"].update(vocab={t: i for i, t in enumerate(vocab)}, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    small = text_pipelines.models()
    pipelines = text_pipelines.pipelines({**small, **models}, text_pipelines.charsmap(normalization_rule_name="nmt_nfkc"))
    pipelines["llama3"] = dict(pipelines["olmo2"], model="bytes_whole")
    pipelines["qwen2"] = dict(pipelines["olmo2"], normalizer={"type": "NFC"}, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": make_text.QWEN2}, "behavior": "Isolated", "invert": False}, pipelines["olmo2"]["pre_tokenizer"]["pretokenizers"][1]]})
    pipelines["llama2"] = dict(pipelines["phi3"])
    names = ["gptj", "llama3", "qwen2", "bloom", "falcon", "tekken", "deepseek3", "llama2", "gemma", "t5", "bert"]
    long_text = "".join(random.Random(1).choice("abcdefghijklmnopqrstuvwxyz") for _ in range(1_000_000))
    (folder / "long.txt").write_text(long_text)
    slow = []
    for name in names:
        (folder / name).mkdir()
        path = folder / name / "tokenizer.json"
        path.write_text(json.dumps(text_pipelines.assemble(pipelines[name], {**small, **models})))
        tok = Tokenizer.from_file(str(path))
        ours, theirs = [], []
        for _ in range(3):
            line = subprocess.run([tool, folder / name, "--time", corpus, str(seconds)], stdout=subprocess.PIPE, check=True).stdout.split()
            ours.append(float(line[0]))
            start, done, ids = time.process_time(), 0, 0
            while time.process_time() - start < seconds:
                for p in paragraphs:
                    ids += len(tok.encode(p, add_special_tokens=False))
                done += size
            theirs.append(done / (time.process_time() - start) / 1e6)
            assert int(line[2]) * done == ids * int(line[1]), "the two do not make the same number of ids"
        line = subprocess.run([tool, folder / name, "--time", folder / "long.txt", "0"], stdout=subprocess.PIPE, check=True).stdout.split()
        ratio = sorted(a / b for a, b in zip(ours, theirs))[1]
        print(f"{name}: {sorted(ours)[1]:.1f} MB/s beside {sorted(theirs)[1]:.2f} MB/s, {ratio:.1f} times; 1 MB without spaces in {1 / float(line[0]):.3f} s", flush=True)
        if ratio < 2 or float(line[0]) < 1:
            slow.append(name)
    return slow


def main():
    options = argparse.ArgumentParser()
    options.add_argument("tool")
    options.add_argument("--count", type=int, default=20000)
    options.add_argument("--only", nargs="*")
    options.add_argument("--speed", action="store_true")
    options.add_argument("--seconds", type=float, default=2)
    options.add_argument("--english")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if args.speed:
            slow = speed(args.tool, folder, args.seconds, english(args.english))
            sys.exit(f"below the aim: {', '.join(slow)}" if slow else 0)
        chosen = {n: p for n, p in files(folder).items() if not args.only or n in args.only}
        faults = sum(compare(args.tool, n, p, args.count) for n, p in chosen.items())
        print(f"{len(chosen)} pipelines, {faults} faults")
        sys.exit(faults > 0)


if __name__ == "__main__":
    main()

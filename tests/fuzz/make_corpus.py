#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Writes tests/fuzz/corpus/<target>/ from the golden files and a list of hostile ones. Run it again after the goldens
# change; files named finding-* are inputs that once failed, kept by hand.
import base64
import gzip
import io
import json
import pathlib
import struct
import tarfile
import zipfile

here = pathlib.Path(__file__).resolve().parent
golden = here.parent / "golden"

def save(target, name, data):
    folder = here / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def tensors(header, data=b"", length=None):
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

# safetensors
save("safetensors", "three", tensors({"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 2], 0, 16),
                                       "b": entry("BF16", [3], 16, 22), "c": entry("I64", [], 22, 30)}, bytes(30)))
save("safetensors", "half-bytes", tensors({"q": entry("F4", [4], 0, 2), "e": entry("F6_E2M3", [0, 9], 2, 2)}, bytes(2)))
save("safetensors", "empty-object", tensors("{}"))
save("safetensors", "length-beyond-file", tensors("{}", length=1000))
save("safetensors", "length-beyond-limit", tensors("{}", length=2**63))
save("safetensors", "overlap", tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)))
save("safetensors", "gap", tensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 6, 10)}, bytes(10)))
save("safetensors", "duplicate", tensors('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                                         '"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xy"))
save("safetensors", "count-overflow", tensors({"a": entry("F64", [2**32, 2**32], 0, 8)}, bytes(8)))
save("safetensors", "lfs-pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 132\n")
save("safetensors", "deep", tensors("[" * 5000))

# folders of packed weights: the list, and the file of one rank
listed = {"version": 1, "tp": 1, "pp": 1, "packing": "cpu-panels-1", "dtype": "bfloat16", "quantize": "int8", "experts": "auto", "source": "org/model",
          "tie": {"embed": "e", "head": "h", "tied": True}, "files": [{"name": "packed-1.safetensors", "bytes": 9, "sha256": "0" * 64}]}
records = {"table.0 e": entry("F32", [2, 3], 0, 24), "vector.0 a b": entry("F32", [1, 2], 24, 32), "int8.0 h": entry("U8", [1, 1, 2048], 32, 2080),
           "int8.1 h": entry("F32", [32], 2080, 2208), "int8.2 h": entry("I32", [64], 2208, 2464)}
save("packed", "whole", json.dumps(listed).encode() + b"\0" + tensors(records, bytes(2464)))
save("packed", "int4", json.dumps({**listed, "tp": 2, "experts": "split", "files": listed["files"] * 2}).encode() + b"\0" +
     tensors({"int4.0 w v": entry("U8", [1, 1, 1120], 0, 1120)}, bytes(1120)))
for name, change, other in (("outside", {"files": [{"name": "../x", "bytes": 1, "sha256": ""}]}, "f32.0"), ("version", {"version": 2**63}, "int9.0 w"),
                            ("dtype", {"dtype": "int8"}, "table.9 w"), ("escape", {"tie": 3, "source": "\x1b"}, "f32.0 w"), ("many", {"tp": 4096, "pp": 4096}, "f")):
    save("packed", name, json.dumps({**listed, **change}).encode() + b"\0" + tensors({other: entry("U8", [1], 0, 1)}, b"x"))

# torch files, and archives of them
checkpoints = golden / "checkpoints"


def pickled(body):
    return b"\x80\x02" + body + b"."


def stored_zip(files):
    to = io.BytesIO()
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return to.getvalue()


def tar(members):
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    out = to.getvalue().rstrip(b"\0")  # padded to 10 KB
    return out + bytes(-len(out) % 512 + 1024)


text = lambda t: b"X" + struct.pack("<I", len(t)) + t.encode()
storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
good = pickled(b"}q\x00" + text("w") + tensor + b"s")
save("torch_file", "zip", stored_zip({"a/data.pkl": good, "a/data/0": bytes(16), "a/byteorder": b"little"}))
save("torch_file", "short-storage", stored_zip({"a/data.pkl": good, "a/data/0": bytes(8)}))
save("torch_file", "no-storage", stored_zip({"a/data.pkl": good}))
save("torch_file", "big-endian", stored_zip({"a/data.pkl": good, "a/data/0": bytes(16), "a/byteorder": b"big"}))
save("torch_file", "forbidden", stored_zip({"a/data.pkl": pickled(b"cos\nsystem\n" + text("true") + b"\x85R")}))
save("torch_file", "within-itself", stored_zip({"a/data.pkl": pickled(b"}q\x00" + text("a") + b"h\x00s")}))
save("torch_file", "deep", stored_zip({"a/data.pkl": pickled(b"]" * 3000 + b"a" * 2999)}))
save("torch_file", "growing", stored_zip({"a/data.pkl": pickled(b"(" + b"N" * 500 + b"tq\x00" + b"0ctorch\nSize\nh\x00\x85R" * 200)}))
magic = b"\x8a\x0a" + (0x1950a86a20f9469cfc6c).to_bytes(10, "little")
legacy = pickled(magic) + pickled(b"M" + struct.pack("<H", 1001)) + pickled(b"}") + good + pickled(b"]" + text("0") + b"a")
save("torch_file", "legacy", legacy + struct.pack("<q", 4) + bytes(16))
save("torch_file", "legacy-cut", legacy + struct.pack("<q", 4000) + bytes(16))
weights = stored_zip({"a/data.pkl": pickled(b"}q\x00" + text("model.language_model.embedding.word_embeddings.weight") + tensor + b"s"),
                      "a/data/0": bytes(16)})
yaml = "hidden_size: 2\nffn_hidden_size: ${multiply:4, ${.hidden_size}}\ntokenizer:\n  vocab_file: nemo:v.json\nloop: ${.loop}\n"
save("nemo", "one", tar({"./model_config.yaml": yaml.encode(), "./model_weights.ckpt": weights, "./v.json": b"{}"}))
save("nemo", "two-ranks", tar({"model_config.yaml": yaml.encode(), "mp_rank_00/model_weights.ckpt": weights,
                               "mp_rank_01/model_weights.ckpt": weights}))
save("nemo", "one-of-two", tar({"model_config.yaml": yaml.encode(), "mp_rank_01/model_weights.ckpt": weights}))
save("nemo", "outside", tar({"../model_config.yaml": yaml.encode()}))
save("nemo", "packed", gzip.compress(tar({"./model_config.yaml": yaml.encode()}), mtime=0))
save("nemo", "packed-cut", gzip.compress(tar({"a": b"b"}), mtime=0)[:40])
save("nemo", "long-name", tar({"x" * 300: b"y", "model_config.yaml": b"a: 1"}))
save("yaml", "config", yaml + "list:\n- a\n- {b: [1, 'c', \"d\"]}\n-\n  e: null # f\n")
save("yaml", "deep", "".join(" " * i + "a:\n" for i in range(60)))
save("yaml", "flow-deep", "a: " + "[" * 2000)
save("yaml", "ini", (checkpoints / "faster_transformer/2-gpu/config.ini").read_text())

# quantised layers, each with the byte of its format: kind and bits, group, order, zeros
for name, kind in {"gptq": 0, "gptq_act": 32, "gptq3": 1, "gptq8": 3 + 8, "awq": 6, "rows8": 7}.items():
    save("quantised", name, bytes([kind]) + (checkpoints / "quantised" / name / "model.safetensors").read_bytes())
save("quantised", "empty", b"\0" + tensors({"a.qweight": entry("I32", [0, 8], 0, 0), "a.qzeros": entry("I32", [0, 1], 0, 0),
                                            "a.scales": entry("F16", [0, 8], 0, 0)}))
save("quantised", "overflow", b"\0" + tensors({"a.qweight": entry("I32", [2**60, 0], 0, 0), "a.qzeros": entry("I32", [2**60, 0], 0, 0),
                                               "a.scales": entry("F16", [2**60, 0], 0, 0)}))
save("quantised", "misfit", b"\0" + tensors({"a.qweight": entry("I32", [1, 1], 0, 4), "a.qzeros": entry("I32", [1, 1], 4, 8),
                                             "a.scales": entry("F16", [1, 2], 8, 12)}, bytes(12)))

# index
both = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "model.b": "two.safetensors"}}
save("index", "twice", json.dumps({"weight_map": {"a": "one.safetensors", "x": "twice.safetensors"}}))
save("index", "old-names", json.dumps({"weight_map": {"c.LayerNorm.weight": "old.safetensors", "a": "one.safetensors"}}))
save("index", "both", json.dumps(both))
save("index", "one", json.dumps({"weight_map": {"a": "one.safetensors"}}))
save("index", "missing-shard", json.dumps({"weight_map": {"a": "three.safetensors"}}))
save("index", "wrong-shard", json.dumps({"weight_map": {"a": "two.safetensors"}}))
save("index", "outside", json.dumps({"weight_map": {"a": "../one.safetensors"}}))
save("index", "itself", json.dumps({"weight_map": {"a": "model.safetensors.index.json"}}))
save("index", "no-text", json.dumps({"weight_map": {"a": ["one.safetensors"], "b": None}}))
save("index", "nul", '{"weight_map":{"a":"one.safetensors\\u0000"}}')

# tokenizer.json cut down: the base vocabulary and a few merges, every component as it is
def small(tokenizer, entries=40):
    model = tokenizer["model"]
    if isinstance(model.get("vocab"), dict):
        if model["type"] == "BPE":
            merges = model["merges"][:entries // 2]
            parts = {part for merge in merges for part in (merge.split(" ") if isinstance(merge, str) else merge)}
            parts |= {"".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges}
            model["merges"] = merges
        else:
            parts = set()
        keep = sorted(parts) + [t for t in model["vocab"] if t not in parts][:entries]
        model["vocab"] = {t: model["vocab"][t] for t in keep if t in model["vocab"]}
        if model.get("unk_token") and model["unk_token"] not in model["vocab"]:
            model["vocab"][model["unk_token"]] = 0
    post = tokenizer.get("post_processor") or {}
    for part in post.get("processors", [post]):
        for special in part.get("special_tokens", {}).values() if isinstance(part.get("special_tokens"), dict) else []:
            special["ids"] = [0 for _ in special["ids"]]  # the added tokens got other ids
    return tokenizer


text = "It's 2 x 12345 words,\t\u4e16\u754c \U0001f468\u200d\U0001f469 <s>  </s><|endoftext|>\r\n e\u0301 \ufb01 '\u017f \u2581"
for path in sorted((golden / "text").glob("*/tokenizer.json")):
    tokenizer = small(json.loads(path.read_text()))
    config = path.parent / "tokenizer_config.json"
    data = json.dumps(tokenizer, ensure_ascii=False) + "\0" + text + "\0" + (config.read_text() if config.exists() else "{}")
    save("tokenizer", path.parent.name, data)
file = json.loads((golden / "text" / "pipelines.json").read_text())
for name in ("falcon", "tekken", "roberta", "phi4", "gemma", "t5", "t5_converted", "unigram_bytes", "bert", "bert_cased", "wordlevel", "clip", "prefix",
             "delimiters", "split_any"):
    pipeline = file["pipelines"][name]
    parts = {key: pipeline[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")}
    model = json.loads(json.dumps(file["models"][pipeline["model"]]))
    if isinstance(model["vocab"], list):
        model["vocab"] = model["vocab"][:60]
    save("tokenizer", "pipeline-" + name, json.dumps(small({**parts, "model": model}), ensure_ascii=False) + "\0" + text)
base = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": None, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}


def tokenizer(name, body="abab", **changes):
    save("tokenizer", name, json.dumps({**base, **changes}) + "\0" + body)


tokenizer("plain")
tokenizer("unknown-component", normalizer={"type": "Surprise"})
tokenizer("unknown-model", model={"type": "Oracle"})
tokenizer("merge-of-missing", model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a z"]})
tokenizer("ids-beyond", model={"type": "BPE", "vocab": {"a": 2147483647, "b": -1}, "merges": []})
tokenizer("ids-sparse", model={"type": "BPE", "vocab": {"a": 0, "b": 9999999}, "merges": []})
tokenizer("backtracking", body="a" * 2000 + "!", pre_tokenizer={
    "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False})
tokenizer("charsmap-outside", normalizer={"type": "Precompiled", "precompiled_charsmap": "CAAAAP////8A/wEAeAA="})
tokenizer("charsmap-short", normalizer={"type": "Precompiled", "precompiled_charsmap": "CAAAAA=="})
tokenizer("unigram-long", body="a" * 3000, model={"type": "Unigram", "unk_id": 0, "vocab": [["a" * n, -n] for n in range(1, 60)]})
tokenizer("unigram-no-unk", body="b", model={"type": "Unigram", "vocab": [["a", -1e308], ["", 5], ["a", 1e308]]})
tokenizer("wordpiece-long", body="a" * 3000, model={"type": "WordPiece", "max_input_chars_per_word": 99999999, "vocab": {"[UNK]": 0, "a": 1, "##aa": 2}})
tokenizer("strip-nothing", decoder={"type": "Strip", "content": "", "start": 9223372036854775807, "stop": 9})
tokenizer("wordlevel", body="a b", model={"type": "WordLevel", "vocab": {"a": 0, "<unk>": 9}}, pre_tokenizer={"type": "FixedLength", "length": 1})
tokenizer("all-parts", body=text, normalizer={"type": "Sequence", "normalizers": [
    {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, {"type": "Prepend", "prepend": "\u2581"}]},
    pre_tokenizer={"type": "Sequence", "pre_tokenizers": [
        {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]},
    decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
                                              {"type": "Strip", "content": " ", "start": 1, "stop": 1}]},
    added_tokens=[{"id": 3, "content": "<s>", "single_word": True, "lstrip": True, "rstrip": True, "normalized": False,
                   "special": True}],
    post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                             {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}})

# importers: SentencePiece models with their first, last and every so many pieces
def fields(data):
    """Top-level fields of a protobuf message, each with its bytes."""
    def number(at):
        value, shift = 0, 0
        while True:
            value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
            if data[at - 1] < 128:
                return value, at

    at = 0
    while at < len(data):
        start = at
        key, at = number(at)
        size, at = number(at)  # all of them are messages
        at += size
        yield key >> 3, data[start:at]


for name in ("import_spm", "import_spm_gemma", "import_spm_first", "import_t5"):
    data = next(iter((golden / "text" / name).glob("*.model"))).read_bytes()
    parts = list(fields(data))
    pieces = [part for kind, part in parts if kind == 1]
    small = b"".join(pieces[:270] if name == "import_spm" else pieces[:8] + pieces[270:300]) + b"".join(part for kind, part in parts if kind != 1)
    config = {"import_spm": "", "import_spm_gemma": '{"tokenizer_class":"GemmaTokenizer"}',
              "import_spm_first": '{"legacy":false,"add_eos_token":true,"add_prefix_space":true}', "import_t5": '{"extra_ids":3}'}[name]
    save("import", name, b"s" + config.encode() + b"\0" + small)
    save("import", name + "-cut", b"s\0" + small[:401])
vocab = json.loads((golden / "text" / "import_gpt2" / "vocab.json").read_text())
merges = (golden / "text" / "import_gpt2" / "merges.txt").read_text().splitlines()[:30]
save("import", "gpt2", "m" + json.dumps(dict(list(vocab.items())[:330]), ensure_ascii=False) + "\0" + "\n".join(merges))
save("import", "gpt2-added", 'm{"a":0,"b":1,"ab":2,"<|endoftext|>":3}\0#version: 0.2\na b\n\0{"<x>":4,"<y>":5}\0{"add_bos_token":true,"bos_token":"<x>","pad_token":"<y>"}')
save("import", "merge-of-missing", 'm{"a":0,"b":1}\0#version: 0.2\na b\na z\n')
ranks = [bytes([b]) for b in range(256)] + [b"ab", b"abc", b" a"]
save("import", "tiktoken", "s\0" + "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)))
save("import", "tiktoken-ranks", "s\0YQ== 0\nYg== 1\nYWI= 2\n")
save("import", "tiktoken-bad", "s\0YQ== 0\nYg= 1\nYWI= 99999999999\nYQ== 3\n")

# templates: the engine's pins, and one of each model
cases = json.loads((golden / "text" / "templates.json").read_text())["cases"]
for n in range(0, len(cases), 12):
    save("chat_template", f"pins-{n // 12:02}", "\n".join(c["template"] for c in cases[n:n + 12] if not c["context"]))
for case in cases:
    if case["context"]:
        save("chat_template", "engine-" + case["name"], case["template"] + "\0" + json.dumps(case["context"], ensure_ascii=False))
chats = json.loads((golden / "text" / "chat_templates.json").read_text())
for name in ("llama2", "llama3", "llama31", "chatml", "mistral", "zephyr", "qwen25", "parts"):
    entry = chats["templates"][name]
    context = {**chats["conversations"]["user"], "add_generation_prompt": False, **entry["tokens"]}
    del context["extra"]
    save("chat_template", name + "-user", entry["source"] + "\0" + json.dumps(context, ensure_ascii=False))
for name in ("grounded", "signatures", "reasoner", "windowed", "composed", "tables", "wordy", "gathered", "builtin/llama2"):
    entry = chats["templates"][name]
    conversation = chats["conversations"][entry["cases"][-1]["conversation"]]
    context = {"messages": conversation["messages"], "tools": conversation["tools"], "documents": conversation["documents"], **entry["tokens"]}
    save("chat_template", "chat-" + name.replace("/", "-"), entry["source"] + "\0" + json.dumps(context, ensure_ascii=False))
for name, template in {
        "endless-loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "deep-parse": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "deep-value": "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "growth": "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x * 99 %}{% endfor %}{{ ns.x }}",
        "numbers": "{{ -9223372036854775808 // -1 }}{{ 9223372036854775807 + 1 }}{{ 2**64 }}{{ 1 % 0 }}{{ '9' * -1 }}"
                   "{{ 9223372036854775807 * 9223372036854775807 }}{{ (-9223372036854775807 - 1)|abs }}",
        "slices": "{{ 'abc'[::-1] }}{{ [1,2,3][9223372036854775807:-9223372036854775807:-9223372036854775807] }}{{ 'x'[5] }}",
        "calls": "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, c=4) }}{{ m(a=1) }}"
                 "{% call m(1) %}x{% endcall %}",
        "methods": "{{ 'a,b'.split(',', 1) }}{{ '%s %d'|format('x', 3) }}{{ {'a': 1}.items()|list }}{{ 'x'.replace('', 'y', -1) }}"
                   "{{ [3,1]|sort(reverse=true)|join(',') }}{{ messages|selectattr('role','equalto','user')|list }}"
                   "{{ 'abc'|truncate(1) }}{{ 'a b'|wordcount }}{{ 3.14159|round(2, 'floor') }}{{ {'b': 1}|tojson(indent=99) }}",
        "unclosed": "{% if x %}{{ 'a", "comment": "{# {{ #}{%- raw -%} {{ x }} {% endraw %}{{- 1 -}}"}.items():
    save("chat_template", "hostile-" + name, template + '\0{"messages":[{"role":"user","content":"hi"}]}')

# config.json
kinds = {}  # one of those that differ in numbers alone
for path in sorted(golden.glob("*/*/config.json")):
    one = json.loads(path.read_text())
    kinds.setdefault(str(sorted((key, value if isinstance(value, (bool, str)) else None) for key, value in one.items())), (path.parent, one))
for folder, one in kinds.values():
    save("config", f"{folder.parent.name}-{folder.name}", json.dumps(one, separators=(",", ":")))
save("config", "unknown", '{"architectures":["OracleForCausalLM"]}')
save("config", "huge", '{"architectures":["LlamaForCausalLM"],"hidden_size":9223372036854775807,"intermediate_size":9223372036854775807,'
     '"num_hidden_layers":9223372036854775807,"num_attention_heads":1,"vocab_size":9223372036854775807}')
save("config", "zero-heads", '{"architectures":["LlamaForCausalLM"],"hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,'
     '"num_attention_heads":0,"num_key_value_heads":0,"vocab_size":256}')
llama = {"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 512, "vocab_size": 256}
for name, value in {"dynamic": {"rope_type": "dynamic", "factor": 2.0}, "yarn": {"rope_type": "yarn", "factor": 4, "beta_fast": 16, "mscale": 1, "mscale_all_dim": 0.5},
                    "longrope": {"type": "longrope", "short_factor": [1, 1.5, 2, 3], "long_factor": [1, 4, 9, 16], "original_max_position_embeddings": 64},
                    "llama3": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 64},
                    "unknown": {"rope_type": "mrope"}}.items():
    save("config", "rope-" + name, json.dumps({**llama, "rope_scaling": value}))
for name, value in {"awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
                    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True}, "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True},
                    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "rows": {"quant_method": "compressed-tensors", "format": "float-quantized"},
                    "gptq": {"quant_method": "gptq", "bits": 3, "group_size": -1, "desc_act": True, "checkpoint_format": "gptq_v2"}}.items():
    save("config", "quantised-" + name, json.dumps({**llama, "quantization_config": value}))
save("config", "quantised", '{"architectures":["LlamaForCausalLM"],"quantization_config":{"quant_method":"gptq","bits":4}}')

# JSON of both kinds
for name, data in {"everything": '{"a":[1,-2.5e3,true,false,null,"\\u00e9\\ud83d\\ude00\\n"],"b":{"c":{}},"a":2}',
                   "numbers": "[0,-0,0.0,1e400,1E-400,9223372036854775807,9223372036854775808,-9223372036854775809,0.1]",
                   "deep": "[" * 200 + "]" * 200, "deeper": "[" * 3000, "surrogate": '"\\ud800x\\udc00"',
                   "not-utf8": b'"\xc3\x28\xff\xed\xa0\x80\xf4\x90\x80\x80"', "control": b'"a\x01\x7f"', "tail": "{} {}"}.items():
    save("json", name, data)

# request bodies
for dialect in ("openai", "tgi"):
    for path in sorted((here.parent / "api" / "golden" / dialect).glob("*.request.json")):
        request = json.loads(path.read_text())
        body = request.get("body", request)
        body = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        if len(body) < 3 or len(body) > 4000:
            continue
        first = ("c" if "messages" in body else "p") if dialect == "openai" else ("s" if "stream" in path.name else "g")
        save(dialect, path.name.removesuffix(".request.json"), first + body)
save("openai", "everything", "p" + json.dumps({
    "model": "test-model", "prompt": ["a", "b"], "n": 2, "best_of": 3, "echo": False, "logprobs": 5, "max_tokens": 3, "min_tokens": 1,
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "typical_p": 0.5, "repetition_penalty": 1.1, "frequency_penalty": -2,
    "presence_penalty": 2, "seed": 1, "stop": ["x", "y"], "stop_token_ids": [1], "logit_bias": {"1": -100}, "stream": True,
    "stream_options": {"include_usage": True}, "user": "u", "suffix": None, "ignore_eos": True, "skip_special_tokens": False}))
save("openai", "chat-parts", "c" + json.dumps({
    "model": "test-model", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]},
                                         {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function",
                                          "function": {"name": "f", "arguments": "{\"a\":1}"}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "max_completion_tokens": 2,
    "top_logprobs": 2, "logprobs": True, "response_format": {"type": "text"}, "chat_template_kwargs": {"x": 1}}))
function = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
for name, first, choice, answer in (
        ("hermes", "c", "auto", '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>\n{"name":"f","arguments":{}}'),
        ("mistral", "w", "required", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]'), ("llama", "c", "auto", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}'),
        ("named", "w", {"type": "function", "function": {"name": "f"}}, '{"a": 1}'), ("unknown", "c", "auto", '{"name": "g", "arguments": 3}'), ("text", "c", "none", "no")):
    save("openai", "calls-" + name, first + json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": [function], "tool_choice": choice}) + "\0" + answer)
save("tgi", "everything", "g" + json.dumps({"inputs": "a", "parameters": {
    "best_of": 1, "decoder_input_details": True, "details": True, "do_sample": True, "frequency_penalty": 0.1, "max_new_tokens": 2,
    "repetition_penalty": 1.03, "return_full_text": False, "seed": 1, "stop": ["p"], "temperature": 0.5, "top_k": 10,
    "top_n_tokens": 5, "top_p": 0.95, "truncate": 3, "typical_p": 0.95, "watermark": False, "grammar": None, "adapter_id": None}}))

for path in sorted((here.parent / "api" / "golden").glob("*/*.request.json")):
    request = json.loads(path.read_text())
    body = request["raw"] if "raw" in request else json.dumps(request["body"], ensure_ascii=False) if "body" in request else ""
    if path.parent.name in ("openai", "tgi") or len(body) > 4000:
        continue
    save("routes", path.parent.name + "-" + path.name.removesuffix(".request.json"), f"{request['method']} {request['path']}\n{body}")
prompt, bytes_in = struct.pack("<I", 2) + b"hi", lambda n: {"parameters": {"binary_data_size": n}}
inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], **bytes_in(6)},
          {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], **bytes_in(4)},
          {"name": "temperature", "datatype": "FP32", "shape": [1, 1], "data": [0.5]},
          {"name": "stop_words", "datatype": "BYTES", "shape": [1, 2], "data": [["a", "b"]]}]
for name, asked, tail in (("whole", {"inputs": inputs}, prompt + struct.pack("<i", 3)), ("cut", {"inputs": inputs}, prompt[:5]),
                          ("asked", {"inputs": inputs, "outputs": [{"name": "text_output", "parameters": {"binary_data": True}}]},
                           prompt + struct.pack("<i", 3)),
                          ("batch", {"id": "1", "inputs": [{**inputs[0], "shape": [2, 1], **bytes_in(12)},
                                                            {"name": "max_tokens", "datatype": "INT32", "shape": [2, 1], "data": [3, 4]}]}, prompt * 2),
                          ("huge-shape", {"inputs": [{**inputs[0], "shape": [2**31, 2**31]}]}, prompt),
                          ("all-types", {"inputs": inputs[:2] + [{"name": n, "datatype": d, "shape": [1, 1], "data": [v]} for n, d, v in (
                              ("bad_words", "BYTES", ""), ("end_id", "INT32", 1), ("pad_id", "INT32", 1), ("top_k", "INT32", 1), ("top_p", "FP32", .5),
                              ("length_penalty", "FP32", 1), ("repetition_penalty", "FP32", 1), ("min_length", "INT32", 1), ("presence_penalty", "FP32", 0),
                              ("random_seed", "UINT64", 1), ("return_log_probs", "BOOL", True), ("beam_width", "INT32", 1), ("stream", "BOOL", False))]},
                           prompt + struct.pack("<i", 3))):
    text = json.dumps(asked).encode()
    save("routes", "triton-binary-" + name, f"POST /v2/models/ensemble/infer {len(text)}\n".encode() + text + tail)

save("routes", "long-path", "GET /v2/models/m" + "/versions/1" * 900 + "/stats\n")

# grammars, each with bytes that pick tokens
schemas = {"object": {"type": "object", "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 12}, "b": {"type": "string", "maxLength": 4},
                                                        "c": {"enum": [1, "x", None, [True]]}}, "required": ["a"], "additionalProperties": {"type": "null"}},
           "array": {"type": "array", "prefixItems": [{"type": "boolean"}], "items": {"type": "number", "exclusiveMinimum": 0.5, "multipleOf": 1},
                     "minItems": 1, "maxItems": 3},
           "bounds": {"type": "number", "minimum": -1.25, "exclusiveMaximum": 3e2}, "pattern": {"type": "string", "pattern": "^[a-c]{2,3}\\d+$"},
           "format": {"anyOf": [{"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid", "ipv4", "email", "uri")]},
           "refs": {"$defs": {"n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}, "required": ["next"]}},
                    "$ref": "#/$defs/n"},
           "map": {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": ["string", "null"]}},
           "any": True, "nothing": False, "all-of": {"allOf": [{"type": "integer"}, {"minimum": 2}]}, "const": {"const": {"a": [1, "b"]}},
           "loop": {"$ref": "#"}, "unknown": {"type": "object", "unevaluatedProperties": False}, "huge": {"type": "string", "minLength": 4294967295}}
for name, schema in schemas.items():
    save("grammar", "schema-" + name, "s" + json.dumps(schema) + "\0\1\2\3\4\5\6")
for name, pattern in {"date": "\\d{4}-\\d\\d-\\d\\d", "classes": "[^a-f\\s]+[\\w.\\-\\]]?(?:x|yz)*", "escapes": "\\x41\\u00e9\\n\\t\\.\\\\", "lazy": "(a+?|b*?){2,}",
                      "unicode": "[\u4e00-\u9fff]+\U0001f600?", "anchors": "^(yes|no)$", "nest": "(" * 300 + "a" + ")" * 300,
                      "count": "(a{1000}){1000}", "open": "[a-", "back": "(a)\\1", "look": "a(?=b)", "empty": ""}.items():
    save("grammar", "regex-" + name, "r" + pattern + "\0\7\0\xc8\1")
for name, rules in {"sum": 'root ::= term ("+" term)*\nterm ::= [0-9]+ | "(" root ")" # nested\n', "left": 'root ::= root "a" | "b"',
                    "classes": 'start ::= [^"\\n]{2,4} . "\\x41\\u00e9"?\n', "unknown": "root ::= missing", "twice": 'a ::= "x"\na ::= "y"',
                    "empty-loop": 'root ::= ("a"?)* "b"', "mutual": 'root ::= a\na ::= b "x" | "y"\nb ::= a'}.items():
    save("grammar", "ebnf-" + name, "e" + rules + "\0\1\2\3\4")
for name, choice in {"two": '["yes","no"]', "prefix": '["a","ab","abc",""]', "none": "[]", "numbers": "[1]", "escapes": '["\\u00e9\\n"]'}.items():
    save("grammar", "choice-" + name, "c" + choice + "\0\1\1\1")

# the hub's answers
revision = json.dumps({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": []})
file = {"type": "file", "path": "config.json", "size": 3, "oid": "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"}
large = {"type": "file", "path": "model.safetensors", "size": 134, "oid": file["oid"], "lfs": {"oid": "0" * 64, "size": 9, "pointerSize": 134}}
for name, (head, listing) in {
        "whole": (revision, json.dumps([file, large, {"type": "directory", "path": "sub"}, {**file, "path": "sub/tokenizer.json"},
                                        {**large, "path": "pytorch_model.bin"}, {**large, "path": "m.nemo"}])),
        "outside": ("57", json.dumps([{**file, "path": "../x"}])), "odd": ("1e9", json.dumps([{**file, "path": 3}, {**file, "size": -1}])),
        "types": ('{"sha":{}}', '[1,{"type":[]},{"type":"file","path":"a","size":1,"oid":"x"}]'), "not-list": ("[]", "{}"),
        "page": ('"api";r=0;t=57', "<html>"), "kinds": ("main", json.dumps([{**file, "path": p} for p in (
            "a.bin", "model-00001-of-00002.safetensors", "consolidated.00.pth", "README.md", "tokenizer.model", "chat_template.jinja", "x/y.txt")]))}.items():
    save("hub", name, head + "\0" + listing)

# HTTP, both ways
crlf = "\r\n"
post = "POST /generate HTTP/1.1\r\nHost: n1\r\nContent-Type: application/json\r\n"
for name, data in {
        "get": "GET /health HTTP/1.1\r\nHost: n1\r\n\r\n", "post": post + "Content-Length: 2\r\n\r\n{}",
        "chunked": post + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n",
        "pipelined": "GET / HTTP/1.1\r\n\r\n" * 3 + post + "Content-Length: 2\r\n\r\n{}GET / HTTP/1.0\r\n\r\n",
        "expect": post + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", "both": post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two-lengths": post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", "negative": post + "Content-Length: -1\r\n\r\n",
        "huge-length": post + "Content-Length: 99999999999999999999\r\n\r\n", "huge-chunk": post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        "long-path": "GET /" + "a/" * 3000 + " HTTP/1.1\r\n\r\n", "escapes": "GET /%00%zz%ff?a=%41&b HTTP/1.1\r\n\r\n",
        "many-headers": "GET / HTTP/1.1\r\n" + "a: b\r\n" * 800 + crlf, "range": "GET / HTTP/1.1\r\nRange: bytes=0-1,5-\r\nAccept-Encoding: gzip\r\n\r\n",
        "multipart": "POST / HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 30\r\n\r\n--x\r\nContent-Disposition: a\r\n\r\n",
        "form": "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\na=%4&b=",
        "stream": "GET /stream HTTP/1.1\r\n\r\nGET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "range-long": "GET / HTTP/1.1\r\nrange: bytes=" + "0-1," * 1900 + "5-\r\n\r\n", "old": "GET /\r\n\r\n", "put": "PUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "h2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}.items():
    save("http", name, data)
ok = "HTTP/1.1 200 OK\r\n"
for name, data in {
        "length": ok + "Content-Length: 2\r\n\r\nhi", "close": ok + "\r\nuntil the end", "none": "HTTP/1.1 204 No Content\r\n\r\n",
        "events": ok + "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n1\r\n\n\r\n10\r\ndata: [DONE]\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
        "continue": "HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", "status": "HTTP/1.1 99999999999 x\r\n\r\n",
        "chunk-overflow": ok + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "lines": ok + "\r\n: comment\ndata:a\ndata: b\r\nid: 1\n\n\n"}.items():
    save("http_reply", name, "\x40" + data)

# Slurm's texts
for name, data in {
        "hosts": "hnode[008-010,12],gpu07,a[1-2]b[3-4]-int", "hosts-many": "hx[0-262144]", "hosts-product": "ha[0-999]b[0-999]c[0-999]",
        "hosts-wide": "hn[00000000000000000000000000000001-3]", "hosts-order": "hn[5-1]", "hosts-nest": "hn[1[2-3]]", "hosts-open": "hn[1-",
        "hosts-big": "hn[18446744073709551615-18446744073709551616]", "counts": "c2(x3),1", "counts-many": "c1(x999999999)",
        "counts-bad": "c-1(x0),(x2),2(3)", "time": "t 1-02:03:04 \n", "time-short": "t05:06", "time-none": "tUNLIMITED",
        "time-big": "t9223372036854775807-23:59:59", "devices": "v0, 1,GPU-5ebe9f43,MIG-1/2/3,,"}.items():
    save("lists", name, data)

# prompt files and journals
def fnv(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001b3) & (2**64 - 1)
    return value


def journal(prompts, answers):
    lines = prompts.encode().split(b"\n")
    out = b""
    for index, answer in answers:
        out += f"{index} {fnv(lines[index]):016x} {fnv(answer.encode()):016x} {answer}\n".encode()
    return prompts.encode() + b"\0" + out


plain, objects = "one\ntwo\nthree", '{"prompt":"a","id":1,"max_tokens":3}\n{"messages":[{"role":"user","content":"x"}],"parameters":{"top_p":0.5}}'
save("prompts", "plain", journal(plain, [(2, "{}"), (0, '{"text":"x"}')]))
save("prompts", "twice", journal(plain, [(1, "{}"), (1, '{"text":"again"}')]))
save("prompts", "torn", journal(plain, [(0, "{}"), (1, "{}")])[:-9])
save("prompts", "objects", journal(objects, [(1, "{}")]))
save("prompts", "all-keys", '{"prompt":"a","custom_id":"c","max_new_tokens":1,"min_tokens":0,"temperature":0.5,"top_k":-1,"min_p":0.1,'
     '"typical_p":0.9,"repetition_penalty":1.2,"frequency_penalty":-2,"presence_penalty":2,"do_sample":true,"seed":7,"stop":["x"],"ignore_eos":true}')
batch = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}]}}
save("prompts", "batch", "\n".join(json.dumps({**batch, **change}) for change in (
    {}, {"url": "/v1/completions"}, {"url": "/v1/x"}, {"method": "GET"}, {"body": 3}, {"body": {"stream": True}}, {"custom_id": 3})) + "\n{}\n[]")
save("prompts", "strings", '"a"\r\n\n"b\\u0000"\n""\n[1]\n{"prompt":"x","surprise":1}')
save("prompts", "blank", "\n \r\n\t\n")
save("prompts", "index-beyond", b"x\x00" + b"99999999999 0000000000000000 0000000000000000 x\n-1 0 0 x\n0 0 0 \n")

# steps and control frames
numbers = lambda *values: struct.pack(f"<{len(values)}i", *values)
rows = numbers(2, 0, 0, 3, 0, 0, 1, 3, 1, 7, 2) + numbers(4, 5, 6, 7, -1) + numbers(2, 2, 0, 3, -1, 3, 1, 8, 4)
save("step", "rows", struct.pack("<IQII", 1, 9, 0, 0) + numbers(3, 1, 2, 3) + numbers(1, 0, 0, 0, 5) + numbers(1, 0, 1, 2) + rows)
params = struct.pack("<BfiffffffQiiBqIiIif", 0, .5, 5, .9, .1, .8, 1.1, -1, 1, 7, 0, 5, 1, 3, 1, 2, 1, 3, .5)
save("step", "params", struct.pack("<IQII", 1, 9, 0, 1) + numbers(0, 0, 3, 1) + params + numbers(3, 1, 2, 3) + bytes(8) + rows)
save("step", "shutdown", struct.pack("<IQI", 1, 2, 1) + bytes(28))
save("step", "zeros", bytes(64))
save("step", "version", struct.pack("<IQ", 1, 1) + b"\x00" * 40)
save("step", "huge-count", struct.pack("<IQ", 1, 1) + b"\xff" * 40)
text8 = lambda s: struct.pack("<I", len(s)) + s
hello = struct.pack("<IIIIIQ", 3, 4, 1, 0, 8, 4711) + text8(b"n2") + text8(b"boot") + text8(b"GPU-1") + text8(b"build")
save("control", "hello", b"h" + hello)
save("control", "hello-cut", b"h" + hello[:-3])
save("control", "announcement", "asluice-rendezvous 1\nhost n1\nboot b\nport 20148\naddress 10.0.0.1\naddress ::1\n")
save("control", "announcement-bad", "asluice-rendezvous 1\nport 99999\nhost\n\n")
frame = lambda kind, payload: struct.pack("<II", kind, len(payload)) + payload
save("control", "frames", b"f" + frame(3, b"") + frame(2, b"step") * 4 + frame(4, b"lost") + frame(6, b"\1\0\0\0") + frame(5, b""))
save("control", "frame-huge", b"f" + struct.pack("<II", 2, 0xffffffff) + b"x" * 100)
save("control", "frame-unknown", b"f" + struct.pack("<II", 99, 4) + b"abcd")

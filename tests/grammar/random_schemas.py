#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random schemas over the keywords of docs/compatibility.md, answered by a model of random weights with the demo
model's tokenizer: every answer ends by itself and validates under jsonschema.
Usage: random_schemas.py SLUICE COUNT SEED"""
import collections
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import jsonschema

DEMO = pathlib.Path(__file__).resolve().parents[1] / "models" / "demo"
NAMES = ["a", "ab", "name", "weißt", "x\"y", "b c", "", "items", "日本", "n1", "value"]
PATTERNS = ["^[a-z]{2,5}$", "a+b", "^(yes|no)$", "[^a-z\"]x", "\\d{3}-\\d{2}", "^\\w+@\\w+\\.org$", "\\\\n", "^.{1,3}$"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email", "ipv6", "hostname", "uri", "duration"]


def random_model(folder):
    """The demo model with weights drawn anew: all of one small size, so that every token is about as likely."""
    for file in DEMO.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    data = (DEMO / "model.safetensors").read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + n])
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    size = max(t["data_offsets"][1] for t in tensors.values())
    assert all(t["dtype"] == "BF16" for t in tensors.values()), "the demo model is bf16"
    signs = bytes(0x3C if b < 128 else 0xBC for b in range(256))
    values = bytearray(size)
    values[0::2] = random.randbytes(size // 2)
    values[1::2] = random.randbytes(size // 2).translate(signs)
    (folder / "model.safetensors").write_bytes(data[:8 + n] + bytes(values))


def scalar():
    return random.choice([None, True, False, 0, -7, 12345, 1.5, "", "text", "q\"\\\n", "é"])


def number(kind):
    s = {"type": kind}
    low = random.choice([-1000, -3, 0, 5, 17, 999]) + (random.choice([0, 0.5, 0.25]) if kind == "number" else 0)
    if random.random() < 0.5:
        s[random.choice(["minimum", "exclusiveMinimum"])] = low
    if random.random() < 0.5:
        s[random.choice(["maximum", "exclusiveMaximum"])] = low + random.choice([2, 10, 12345])
    return s


def string():
    s = {"type": "string"}
    way = random.random()
    if way < 0.2:
        s["pattern"] = random.choice(PATTERNS)
    elif way < 0.4:
        s["format"] = random.choice(FORMATS)
    elif way < 0.8:
        low = random.randrange(4)
        if random.random() < 0.6:
            s["minLength"] = low
        if random.random() < 0.8:
            s["maxLength"] = low + random.randrange(12)
    return s


def array(depth):
    s = {"type": "array"}
    if random.random() < 0.3:
        s["prefixItems"] = [schema(depth - 1) for _ in range(random.randrange(1, 3))]
    if random.random() < 0.8:
        s["items"] = schema(depth - 1) if random.random() < 0.9 else random.choice([True, False])
    low = random.randrange(3) if s.get("items") is not False else 0
    if random.random() < 0.5:
        s["minItems"] = low
    if random.random() < 0.7:
        s["maxItems"] = low + random.randrange(4)
    return s


def object_(depth):
    names = random.sample(NAMES, random.randrange(4))
    s = {"type": "object", "properties": {n: schema(depth - 1) for n in names}}
    if random.random() < 0.7:
        s["required"] = [n for n in names if random.random() < 0.5]
    if random.random() < 0.5:
        s["additionalProperties"] = random.choice([False, False, True, {"type": "integer"}])
    if random.random() < 0.2:
        s["minProperties"] = random.randrange(len(names) + 1)
    if random.random() < 0.2:
        s["maxProperties"] = max(len(s.get("required", [])), s.get("minProperties", 0)) + random.randrange(2)
    return s


def one_of(depth):
    if random.random() < 0.5:
        return {"oneOf": random.sample([string(), number("integer"), {"type": "boolean"}, {"type": "null"}], 2)}
    return {"oneOf": [{"type": "object", "properties": {"kind": {"const": k}, "v": schema(depth - 1)},
                       "required": ["kind"]} for k in ("a", "b")]}


def schema(depth):
    leaf = [string, lambda: number("integer"), lambda: number("number"), lambda: {"type": "boolean"},
            lambda: {"type": "null"}, lambda: {"enum": random.sample([scalar() for _ in range(6)], 3)},
            lambda: {"const": scalar()}, lambda: {"type": random.sample(["string", "integer", "null", "boolean"], 2)},
            lambda: {"$ref": "#/$defs/shared"}]
    inner = [lambda: array(depth), lambda: object_(depth), lambda: object_(depth),
             lambda: {"anyOf": [schema(depth - 1) for _ in range(2)]}, lambda: one_of(depth),
             lambda: {"allOf": [schema(depth - 1)]}, lambda: {"$ref": "#/$defs/tree"}, lambda: {}]
    s = random.choice(leaf if depth <= 0 or random.random() < 0.35 else inner)()
    if random.random() < 0.1:
        s["description"] = "what it is"
    return s


def root(depth=3):
    s = object_(depth) if random.random() < 0.6 else schema(depth)
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "value": {"type": "integer"}},
            "required": ["value"], "additionalProperties": False}
    return {**s, "$defs": {"shared": random.choice([string(), number("number")]), "tree": tree}}


def main():
    sluice, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        (folder / "model").mkdir()
        random_model(folder / "model")
        schemas = [root() for _ in range(count)]
        with open(folder / "in.jsonl", "w", encoding="utf-8") as out:
            for i, s in enumerate(schemas):
                out.write(json.dumps({"id": i, "prompt": "Answer:", "guided_json": s, "temperature": 1.0, "seed": i,
                                      "max_tokens": random.choice([200, 300, 400])}) + "\n")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PMI", "OMPI_"))}
        environment["SLUICE_HOME"] = work
        subprocess.run([sluice, "generate", "--model", str(folder / "model"), "--prompts", str(folder / "in.jsonl"),
                        "--output", str(folder / "out.jsonl")], check=True, env=environment)
        lines = [json.loads(line) for line in open(folder / "out.jsonl", encoding="utf-8")]
    finishes, bad, tokens = collections.Counter(), 0, 0
    for line in lines:
        s, text = schemas[line["id"]], line.get("text", "")
        finish = line.get("finish_reason", line.get("error"))
        finishes[finish if finish in ("stop", "length") else "other"] += 1
        tokens += line.get("generated_tokens", 0)
        try:
            if finish != "stop":
                raise ValueError(f"finish_reason {finish}")
            jsonschema.Draft202012Validator(s).validate(json.loads(text))
        except (ValueError, jsonschema.ValidationError) as error:
            bad += 1
            print(f"schema {line['id']}: {str(error)[:300]}\n  {json.dumps(s)[:600]}\n  {text[:600]}")
    print(f"{len(lines)} answers, {tokens} tokens, {dict(finishes)}, {bad} not valid")
    sys.exit(bad > 0 or len(lines) != count)


if __name__ == "__main__":
    main()

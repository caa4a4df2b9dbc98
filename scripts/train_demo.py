# SPDX-License-Identifier: Apache-2.0
"""Trains tests/models/demo from nothing on the documents of demo_corpus.py, then writes its questions and reference answers.

Run from the repository root, in a Python environment with the pinned packages (two CPU cores need about 25 minutes):
    pip install torch==2.15.0 transformers==4.57.1 tokenizers==0.22.2 safetensors numpy jinja2
    python scripts/train_demo.py                 # tokenizer, training, evaluation, goldens
    python scripts/train_demo.py --goldens       # only evaluate the committed model and rewrite demo_golden.json
Everything is seeded; another machine may round sums differently, so weights can differ while the abilities stay.
Output: tests/models/demo/ (Hugging Face layout, bf16), tests/models/demo_questions.jsonl (held-out templates with the text each answer
must contain), tests/models/demo_golden.json (rendered prompts, token ids and greedy answers of transformers in f32).
"""
import argparse
import json
import math
import pathlib
import random
import sys
import time

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import demo_corpus as corpus  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "models"
MODEL = ROOT / "demo"
SPECIAL = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
BEGIN, END, SYSTEM, USER, ASSISTANT, PAD = range(6)
VOCAB, ROW, LONG_ROW, BATCH = 1024, 256, 1024, 16
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('The demo model knows the roles system, user and assistant, not ' ~ message['role']) }}
    {%- endif %}
    {%- if message['role'] == 'system' and not loop.first %}
        {{- raise_exception('A system message must come first') }}
    {%- endif %}
    {{- '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] | trim ~ '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


def render(document):
    if isinstance(document, str):
        return document
    return "\n".join(m["content"] for m in document)


def train_tokenizer(seed):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator((render(d) for d, _ in zip(corpus.documents(seed), range(30000))), trainer)
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", BEGIN)])])
    assert tok.get_vocab_size() == VOCAB
    MODEL.mkdir(parents=True, exist_ok=True)
    tok.save(str(MODEL / "tokenizer.json"), pretty=False)
    names = dict(bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>")
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    write_json(MODEL / "special_tokens_map.json", names)
    write_json(MODEL / "tokenizer_config.json", dict(
        added_tokens_decoder={str(i): dict(content=t, **flags) for i, t in enumerate(SPECIAL)}, **names, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"], model_max_length=1024,
        tokenizer_class="PreTrainedTokenizerFast"))
    return tok


def write_json(path, value, indent=1):
    path.write_text(json.dumps(value, indent=indent, separators=None if indent else (",", ":"), ensure_ascii=False) + "\n")


def encode(tok, document):
    """(ids, weights): what the model has to say itself counts fully, what others say a little."""
    ids, weights = [BEGIN], [0.0]

    def add(text, weight):
        new = tok.encode(text, add_special_tokens=False).ids
        ids.extend(new)
        weights.extend([weight] * len(new))

    def mark(token, weight):
        ids.append(token)
        weights.append(weight)

    if isinstance(document, str):
        add(document, 1.0)
        mark(END, 1.0)
        return ids, weights
    for m in document:
        own = m["role"] == "assistant"
        mark({"system": SYSTEM, "user": USER, "assistant": ASSISTANT}[m["role"]], 0.05)
        add("\n", 0.05)
        add(m["content"], 1.0 if own else 0.05)
        mark(END, 1.0 if own else 0.05)
        add("\n", 0.05)
    return ids, weights


def batches(tok, seed):
    """Rows packed with whole documents; every sixteenth batch has long rows, so that long contexts are seen too."""
    stream = corpus.documents(seed)
    newline = tok.encode("\n", add_special_tokens=False).ids
    assert len(newline) == 1
    step, spare = 0, None
    while True:
        row = LONG_ROW if step % 16 == 15 else ROW
        rows = ROW * BATCH // row
        x = torch.full((rows, row), PAD)
        w = torch.zeros(rows, row)
        for r in range(rows):
            at = 0
            while True:
                ids, weights = spare or encode(tok, next(stream))
                spare = None
                if len(ids) > row - at:
                    if at == 0:
                        continue  # longer than a whole row: leave it out
                    spare = (ids, weights)
                    break
                x[r, at:at + len(ids)] = torch.tensor(ids)
                w[r, at:at + len(ids)] = torch.tensor(weights)
                at += len(ids)
        yield x, w
        step += 1


def config():
    return LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
        head_dim=32, max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD)


def answers(model, tok, prompts, new_tokens=40, batch=64):
    """Greedy texts of chat questions, without special tokens; a text that does not end by itself is marked."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out = [None] * len(prompts)
    for start in range(0, len(order), batch):
        part = order[start:start + batch]
        ids = [chat_ids(tok, prompts[i]) for i in part]
        width = max(map(len, ids))
        x = torch.tensor([[PAD] * (width - len(i)) + i for i in ids])
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
        with torch.no_grad():
            y = model.generate(x, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=PAD)[:, width:]
        for i, row in zip(part, y.tolist()):
            ended = END in row
            out[i] = tok.decode(row[:row.index(END)] if ended else row, skip_special_tokens=False) + ("" if ended else " <no end>")
    return out


def chat_ids(tok, prompt):
    text = f"<|begin|><|user|>\n{prompt}<|end|>\n<|assistant|>\n"
    return tok.encode(text, add_special_tokens=False).ids


def evaluate(model, tok, questions, show=10):
    model.eval()
    got = answers(model, tok, [q["prompt"] for q in questions])
    right, by_kind = 0, {}
    for q, a in zip(questions, got):
        ok = q["answer"] in a and (q["kind"] == "story" or not a.endswith("<no end>"))
        right += ok
        k = by_kind.setdefault(q["kind"], [0, 0])
        k[0] += ok
        k[1] += 1
        if not ok and show > 0:
            show -= 1
            print(f"    wrong: {q['prompt']!r} -> {a!r}", flush=True)
    model.train()
    print("    " + ", ".join(f"{k} {a}/{b}" for k, (a, b) in by_kind.items()), flush=True)
    return right / len(questions)


def train(tok, args):
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(config())
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([dict(params=matrices, weight_decay=0.05), dict(params=vectors, weight_decay=0.0)], lr=args.lr, betas=(0.9, 0.98), fused=True)
    # Checks during training use other questions of the training templates' kinds: never the held-out list.
    rng = random.Random(99)
    probe = [dict(prompt=q, answer=a, kind=k) for q, a, k in (corpus.question(rng) for _ in range(120))]
    begin, seen, mean = time.time(), 0, None
    model.train()
    for step, (x, w) in zip(range(args.steps), batches(tok, args.seed + 1)):
        lr = args.lr * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in opt.param_groups:
            group["lr"] = lr
        logits = model(x, use_cache=False).logits
        losses = F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), x[:, 1:].reshape(-1), reduction="none")
        weights = w[:, 1:].reshape(-1)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        seen += x.numel()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 19:
            print(f"step {step + 1} loss {mean:.4f} lr {lr:.5f} {seen / (time.time() - begin):.0f} tokens/s {time.time() - begin:.0f} s", flush=True)
        if step % 200 == 199 or step + 1 == args.steps:
            print(f"  training templates: {evaluate(model, tok, probe, 4):.4f}", flush=True)
    print(f"trained {seen} tokens in {time.time() - begin:.0f} s", flush=True)
    model.generation_config = transformers.GenerationConfig(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD)
    model.to(torch.bfloat16).save_pretrained(MODEL)
    path = MODEL / "config.json"
    cfg = json.loads(path.read_text())
    cfg["torch_dtype"] = cfg.pop("dtype")  # the key nearly all published checkpoints use
    write_json(path, dict(sorted(cfg.items())))


def greedy(model, ids, steps, least=None):
    """Ids and margins up to <|end|>, or until a step's margin falls below least (that step is left out)."""
    out, margins = [], []
    with torch.no_grad():
        while len(out) < steps and END not in out:
            top = model(torch.tensor([ids + out]), use_cache=False).logits[0, -1].topk(2)
            margin = float(top.values[0] - top.values[1])
            if least is not None and margin < least:
                break
            out.append(int(top.indices[0]))
            margins.append(margin)
    return out, margins


# Plain text to go on with. After a whole fact anything may follow, so those stop where no token is clearly ahead.
RAW = [
    "Once upon a time", "Once upon a time there was a little bear", "Once upon a time there was a little", "One morning Milo found",
    "Once upon a time there was a little kitten named Luna who lived on a green hill.", "Once upon a time there was a little wolf named Felix",
    "Once upon a time there was a little tiger named Tara who lived near a quiet lake.", "Once upon a time there was a little horse",
    "Once upon a time there was a little mouse named Tilly who lived in an old barn. One morning Tilly found a red ball.",
    "Once upon a time there was a little goat named Gus who lived by the blue sea. One morning Gus",
    "The capital of France is", "The capital of Japan is Tokyo. The capital of Norway is", "Question: What is 7 + 8?\nAnswer:", "3 + 4 = 7. 9 + 5 =",
    "The opposite of hot is", "Monday comes after", "What is the capital of Peru?", "House is spelled", "Grass is",
]
RAW_MARGIN = 0.25


def goldens():
    tok = AutoTokenizer.from_pretrained(MODEL)
    fast = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    questions = corpus.held_out()
    (ROOT / "demo_questions.jsonl").write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in questions))
    accuracy = evaluate(model, fast, questions, 40)
    print(f"held-out templates: {accuracy:.4f} of {len(questions)}", flush=True)
    assert accuracy >= 0.95, "the demo model must answer 95 % of the held-out questions"
    model.eval()

    chat, least = [], []
    dialogues = [[dict(role="user", content=q["prompt"])] for q in questions[::11]]
    dialogues += [
        [dict(role="system", content="You are a helpful assistant."), dict(role="user", content="What is the capital of Italy?")],
        [dict(role="user", content="What is the capital of Spain?"), dict(role="assistant", content="The capital of Spain is Madrid."), dict(role="user", content="And of Greece?")],
        [dict(role="user", content="Hello"), dict(role="assistant", content="Hello! How can I help you?"), dict(role="user", content="What is 12 + 7?")],
        [dict(role="user", content="Tell me a story about a rabbit.")],
    ]
    for d in dialogues:
        prompt = tok.apply_chat_template(d, tokenize=False, add_generation_prompt=True)
        ids = tok.apply_chat_template(d, add_generation_prompt=True)
        assert ids == tok.encode(prompt, add_special_tokens=False) and tok.decode(ids) == prompt
        if len(d) == 1:
            assert ids == chat_ids(fast, d[0]["content"])
        out, margins = greedy(model, ids, 200)
        least += margins
        chat.append(dict(messages=d, prompt=prompt, prompt_ids=ids, ids=out, text=tok.decode(out, skip_special_tokens=True), min_margin=round(min(margins), 4)))
    raw = []
    for text in RAW:
        ids = tok.encode(text)
        out, margins = greedy(model, ids, 64, RAW_MARGIN)
        raw.append(dict(prompt=text, prompt_ids=ids, ids=out, text=tok.decode(out, skip_special_tokens=True), min_margin=round(min(margins), 4)))
    write_json(ROOT / "demo_golden.json", indent=None, value=dict(
        note="Greedy answers of transformers in f32 on the bf16 weights. chat ends at <|end|> (its last id); raw holds up to 64 tokens, cut at <|end|> and before a margin below 0.25.",
        transformers=transformers.__version__, torch=torch.__version__, accuracy=round(accuracy, 4), chat=chat, raw=raw))
    least.sort()
    print(f"chat margins: least {least[0]:.3f}, first percentile {least[len(least) // 100]:.3f}, median {least[len(least) // 2]:.2f}")
    for c in chat[-6:]:
        print(f"  {c['messages'][-1]['content']!r} -> {c['text']!r} margin {c['min_margin']}")
    for r in raw:
        print(f"  {r['prompt']!r} -> {len(r['ids'])} tokens {r['text']!r} margin {r['min_margin']}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--steps", type=int, default=1600)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--goldens", action="store_true", help="do not train: evaluate the committed model and write the goldens")
    a = p.parse_args()
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    torch.set_num_threads(a.threads)
    if not a.goldens:
        train(train_tokenizer(a.seed), a)
    goldens()

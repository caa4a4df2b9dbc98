# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/text/: small tokenizer.json files of each pipeline with reference ids and texts, and rendered templates.

Rerun from the repository root, in a Python environment with the pinned packages:
    pip install transformers==4.57.1 tokenizers==0.22.2 jinja2==3.1.6 sentencepiece==0.2.1 protobuf
    python tests/golden/make_text.py

    <pipeline>/tokenizer.json   a vocabulary of about a thousand entries, trained on the text below
    <pipeline>/golden.json      {"encode": [{text, ids, ids_special, decoded, decoded_skip}], "decode": [{ids, text, text_skip}]}
        ids: add_special_tokens=False; ids_special: True; decoded, decoded_skip: ids_special read back with skip_special_tokens False and True;
        decode: random ids, so that byte tokens form broken UTF-8. Left out: decoded where it is text, *_skip where it is the same without skipping
    pipelines.json              the pipelines of text_pipelines.py: {"models", "texts", "pipelines": {name: {parts, "ids", "special", "decoded", "decode"}}}
        model, normalizer, pre_tokenizer, post_processor, decoder, added_tokens: the file, its model by name; ids, special: of each text, without and
        with special tokens (the first 8); decoded: of each second text with special tokens, skipping them; decode: [[ids, text], ...]
    chat_templates.json         the templates of text_templates.py, text_chat_templates.py and the built-in ones: {"conversations", "templates": {name: {source, tokens,
        cases: [{conversation, add_generation_prompt, expected | error}]}}}; a built-in one's name begins with "builtin/"
    templates.json              {"cases": [{name, template, context, expected | error}]}; error is the message of the exception raised
The reference for tokenizers is the tokenizers package executing the file as it stands, for templates the environment of transformers.
"""
import json
import pathlib
import random
import sys

import jinja2
import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import text_templates  # noqa: E402

OUT = pathlib.Path(__file__).resolve().parent / "text"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXT = """
The quick brown fox jumps over the lazy dog. It's not what they've said; we'll see, I'm sure they'd say you're right.
A model reads tokens and writes tokens. The weights are read once for each step, and the cache grows by one row per token.
He said: "Where is the house?" - and nobody answered, because the house was no longer there. 12 houses, 345 trees, 2024 stars, 1000000 leaves.
In 1999 there were 28 ships in the harbour; 7 of them left at 10:45 and 3.14159 is not a time. Prices: $5, 20 %, #1, a@b.org, x_y, (z), [w], {v}.
for (int i = 0; i < n; ++i) {\n    sum += a[i] * b[i];\n    if (sum > 100) {\n        return sum;\n    }\n}
def main():\n    for line in open("file.txt"):\n        print(line.strip())\n\n\nmain()
<html><body class="plain"><p>Hello, world!</p></body></html> https://example.org/path?query=1&other=two
O rato roeu a roupa do rei de Roma. A situação não é fácil, mas amanhã haverá eleições em São Paulo e no Maranhão.
Você já conhece a língua portuguesa? É falada em Portugal, no Brasil, em Angola e em Moçambique. Coração, pão, avó, avô, às vezes.
El niño comió una manzana y bebió agua. ¿Dónde está la biblioteca? ¡Qué sorpresa! Mañana será otro día.
Le garçon a été très content de l'été à la forêt; où est-il né? Ça dépend de l'œuvre et du cœur.
Die Straße ist größer als früher; wir müssen über die Brücke gehen, weil das Mädchen müde ist. Fünf Äpfel, zwölf Öfen.
Москва является столицей России. Мама мыла раму, а потом пила чай с молоком. Что это такое? Это дом.
Η γρήγορη αλεπού πηδάει πάνω από το σκυλί. Καλημέρα κόσμε.
今天天气很好，我们去公园散步吧。模型读取权重，然后生成文本。你好，世界！
これは日本語の文章です。カタカナとひらがなと漢字があります。東京は大きい都市です。
안녕하세요 세계. 오늘은 날씨가 좋습니다. 한국어 문장입니다.
Tiếng Việt có nhiều dấu. Việt Nam là một nước ở Đông Nam Á.
مرحبا بالعالم. هذا نص عربي قصير. नमस्ते दुनिया। यह हिन्दी है। שלום עולם.
The emoji 😀 and 👍 and 🎉 are four bytes each; 👩‍👩‍👧 is joined, and 🇧🇷 is a pair. Maths: ∑ x² ≤ ∞, ½ + ¼, α → β, 10⁻³.
    four spaces   three  two\ttab\t\ttwo tabs
"""

ALPHABET = [
    " ", "  ", "   ", "    ", "\t", "\r", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u200d", "\u2028", "\u0085", "😀", "👩‍👩‍👧", "🇧🇷", "👍🏽", "é", "e\u0301", "a\u0323\u0302",
    "ắ", "한국", "\u1112\u1161\u11ab", "ＦＵＬＬ１２", "\ufffd", "▁", "▁▁a", "1", "22", "333", "4444", "55555", "666666", "7777777", "²", "³½", "Ⅳ", "٣٤", "м", "Москва", "中文", "你好，", "カナ", "ひら",
    "'s", "'S", "'ſ", "'re", "'LL", "'", "it's", "THEY'VE", "house", " house", "Hello", "hello world", "the", " the", "São", "coração", "Straße", "ﬁ", "Ω", "Å", "Việt", " Việt", "नमस्ते", "שלום",
    "ß", ".", ",", "...", "!?", "-", "--", "(", ")", "[x]", "{}", "<", ">", "#", "# #", "_", "a_b", "\\", "/", "http://a.b/c?d=e", "\u0000", "\u0001", "\u007f", "x\u0308", "\U0001d54f", "\U00020000", "İ", "ǆ", "\u0345",
]
FIXED = [
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", " \n", "\n ", " \n ", "\t", "\r\n", "\r\n\r\n", "a", " a", "a ", "  a", "a  ", "a  b", "a   b", "a\tb", "a \t b", "a\n\nb", "a \n\n b", "a\r\nb",
    "Hello, world!", "Hello  world", " Hello", "Hello ", "hello\nworld", "The quick brown fox jumps over the lazy dog.", "it's they've we'll I'M YOU'RE 'tis 'S 'ſ x'ſy",
    "1 12 123 1234 12345 123456 1234567 12345678", "3.14159", "1,000,000", "a1b2c3", "²³¹", "x² + y³ = ½", "٣٤٥", "Ⅷ",
    "são João não é fácil", "Straße über ÄÖÜ", "Москва мама", "今天天气很好，我们去公园", "これは日本語です", "안녕하세요 세계", "Tiếng Việt Việt", "नमस्ते दुनिया।", "مرحبا بالعالم", "😀", "a😀b", "👩‍👩‍👧👍🏽🇧🇷",
    "e\u0301 vs é", "\u1112\u1161\u11ab 한", "a\u0323\u0302 ậ", "\u212b Å \u2126 Ω", "ﬁ ﬀ Ａ１", "\u00a0nbsp\u00a0\u00a0x", "\u3000wide\u3000", "zero\u200bwidth", "\u2028line\u2029sep\u0085nel",
    "▁", "▁▁", "a▁b", "▁a", " ▁", "▁ ", "\ufffd", "\ufffd\ufffd", "\u0000", "a\u0000b", "<0x41>", "<0x0A>", "<unk>", "<unk", "<s>", "</s>", "<s>a", "a<s>", "a <s> b", "<s><s>", "<s> <s>", "</s>\n<s>", "<<s>>", "x</s>y",
    "<|begin_of_text|>a", "a<|end_of_text|>", "<|eot_id|><|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "a <|endoftext|> b", "<|im_start|", "<tool_call>\n{}\n</tool_call>",
    "[INST] Hi [/INST]", "[INST]Hi[/INST]Yes</s>[INST]No[/INST]", "<|user|>\nHi<|end|>\n<|assistant|>\n", "x <|user|>  y", "word", "awordb", "a word b", "word.", "NFKD", "Cafe\u0301",
    "for (int i = 0; i < n; ++i) {\n    sum += a[i];\n}\n", "def main():\n\tpass\n\n\n", "https://example.org/path?query=1&other=two#frag", "\"quoted\" 'single' `back`", "a--b---c", "!!!???...", "#include <x>\n", "    indented\n        more", "x\n\n\n\n   y", "end   ", "\n\n   end", "ALLCAPS camelCase snake_case",
    "x" * 200, "ab" * 100, " " * 50, "\n" * 20, "é" * 40, "😀" * 10, "1" * 50, "the " * 30, "houses and the house",
]


def write(file, value):
    """Compact JSON: one line for each entry of the lists and dicts at the top."""
    def dumps(v):
        return json.dumps(v, ensure_ascii=False, separators=(",", ":"))

    def lines(v):
        if isinstance(v, list):
            return "[\n" + ",\n".join(map(dumps, v)) + "\n]"
        if isinstance(v, dict):
            return "{\n" + ",\n".join(f"{dumps(k)}:{dumps(x)}" for k, x in v.items()) + "\n}"
        return dumps(v)

    file.write_text("{" + ",\n".join(f"{dumps(k)}:{lines(v)}" for k, v in value.items()) + "}\n")


def strings(seed):
    rng = random.Random(seed)
    out = list(FIXED)
    for _ in range(60):
        out.append("".join(rng.choice(ALPHABET) for _ in range(rng.randint(2, 12))))
    return out


def added(content, special=True, normalized=False, **flags):
    return dict(content=content, special=special, normalized=normalized, **{**dict(lstrip=False, rstrip=False, single_word=False), **flags})


def learn(pre_tokenizer, size, normalizer=None, alphabet=()):
    """Vocabulary (in order) and merges of a plain BPE over the text."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    if normalizer:
        tok.normalizer = normalizer
    lines = [line.replace("\\n", "\n").replace("\\t", "\t") for line in TEXT.strip("\n").split("\n")]
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    return [t for t, _ in sorted(model["vocab"].items(), key=lambda e: e[1])], [tuple(m) for m in model["merges"]]


def assemble(name, vocab, merges, specials, merges_as_text=False, **parts):
    """Writes <name>/tokenizer.json; added tokens get their ids as the package gives them."""
    merges = [" ".join(m) for m in merges] if merges_as_text else [list(m) for m in merges]
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False, byte_fallback=False,
                 ignore_merges=False, vocab={t: i for i, t in enumerate(vocab)}, merges=merges)
    model.update(parts.pop("model", {}))
    ids, after = {}, len(vocab)
    for s in specials:
        ids[s["content"]] = model["vocab"].get(s["content"], after)
        after += s["content"] not in model["vocab"]
    file = dict(version="1.0", truncation=None, padding=None, added_tokens=sorted((dict(id=ids[s["content"]], **s) for s in specials), key=lambda s: s["id"]),
                normalizer=parts.get("normalizer"), pre_tokenizer=parts.get("pre_tokenizer"), post_processor=parts.get("post_processor"),
                decoder=parts.get("decoder"), model=model)
    (OUT / name).mkdir(parents=True, exist_ok=True)
    write(OUT / name / "tokenizer.json", file)


def template(token, token_id):
    single = [dict(SpecialToken=dict(id=token, type_id=0)), dict(Sequence=dict(id="A", type_id=0))]
    pair = single + [dict(SpecialToken=dict(id=token, type_id=1)), dict(Sequence=dict(id="B", type_id=1))]
    return dict(type="TemplateProcessing", single=single, pair=pair, special_tokens={token: dict(id=token, ids=[token_id], tokens=[token])})


def sentencepiece_like():
    learnt, merges = learn(pre_tokenizers.Metaspace(), 900)
    merges = merges[:200] + [("▁", "▁"), ("▁▁", "▁▁")] + merges[200:] + [("▁▁▁▁", "▁▁▁▁")]
    learnt += ["▁▁", "▁▁▁▁", "▁" * 8]
    # Rarer characters must take the byte fallback: of the single ones only those below are entries.
    keep = set("▁") | {c for c in learnt if len(c) == 1 and (ord(c) < 0x180 or 0x400 <= ord(c) < 0x460 or c in "的一是。，、")}
    usable = set(keep)
    kept = []
    for a, b in merges:
        if a in usable and b in usable:
            kept.append((a, b))
            usable.add(a + b)
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + [t for t in learnt if t in usable and len(t) > 1] + sorted(keep)
    assert len(vocab) == len(set(vocab))
    model = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    chain = [dict(type="Replace", pattern=dict(String="▁"), content=" "), dict(type="ByteFallback"), dict(type="Fuse"), dict(type="Strip", content=" ", start=1, stop=0)]
    common = dict(model=model, decoder=dict(type="Sequence", decoders=chain), post_processor=template("<s>", 1))
    legacy = dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="▁"), dict(type="Replace", pattern=dict(String=" "), content="▁")])
    basic = [added("<unk>"), added("<s>"), added("</s>")]
    assemble("llama_legacy", vocab, kept, basic, merges_as_text=True, normalizer=legacy, **common)
    metaspace = dict(type="Metaspace", replacement="▁", prepend_scheme="first", split=False)
    assemble("llama_metaspace", vocab, kept, basic + [added("[INST]"), added("[/INST]")], pre_tokenizer=metaspace, **common)
    # Added tokens with every flag: role marks that swallow white space, whole words only, matched after normalisation.
    flags = basic + [added("<|user|>", rstrip=True), added("<|assistant|>", rstrip=True), added("<|end|>", lstrip=True, rstrip=True),
                     added("word", special=False, single_word=True), added("the house", special=False, normalized=True), added("<0x", special=False)]
    assemble("added_flags", vocab, kept, flags, normalizer=legacy, **common)
    # No byte fallback: unknown characters become <unk>, runs of them one.
    assemble("unk_fused", vocab, kept, basic, normalizer=legacy, **{**common, "model": dict(unk_token="<unk>", fuse_unk=True)})


def byte_level_like():
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    def split(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def split_json(pattern):
        return dict(type="Sequence", pretokenizers=[dict(type="Split", pattern=dict(Regex=pattern), behavior="Isolated", invert=False), byte_level])

    decoder = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
    vocab, merges = learn(split(LLAMA3), 1100, alphabet=alphabet)
    # Whole words that no merge builds: only ignore_merges finds them.
    whole = [m for m in merges if m[0] + m[1] in ("Ġthe", "Ġhouse", "ĠViá»ĩt", "ing", "Ã£o", "ĠToken", "201")] + merges[-40::8]
    assert len(whole) >= 6
    merges3 = [m for m in merges if m not in whole]
    post = dict(type="Sequence", processors=[dict(type="ByteLevel", add_prefix_space=True, trim_offsets=False, use_regex=True), template("<|begin_of_text|>", len(vocab))])
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
    assemble("llama3", vocab, merges3, [added(s) for s in specials], model=dict(ignore_merges=True), pre_tokenizer=split_json(LLAMA3), post_processor=post, decoder=decoder)

    vocab, merges = learn(split(QWEN2), 1100, normalizers.NFC(), alphabet)
    assemble("qwen2", vocab, merges, [added(s) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] + [added(s, special=False) for s in ("<tool_call>", "</tool_call>")],
             normalizer=dict(type="NFC"), pre_tokenizer=split_json(QWEN2), post_processor=dict(byte_level, trim_offsets=False), decoder=dict(byte_level, trim_offsets=False),
             model=dict(continuing_subword_prefix="", end_of_word_suffix=""))

    vocab, merges = learn(pre_tokenizers.ByteLevel(add_prefix_space=False), 900, alphabet=alphabet)
    full = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    assemble("gpt2", vocab, merges, [added("<|endoftext|>", normalized=True)], merges_as_text=True, pre_tokenizer=full, post_processor=dict(full, trim_offsets=False), decoder=full)


def decode_ids(tok):
    return lambda ids, skip: tok.decode(ids, skip_special_tokens=skip)


def encoded(text, encode, decode):
    """A text, its ids, and what they read back as where that differs."""
    ids, special = encode(text, False), encode(text, True)
    plain, skip = decode(special, False), decode(special, True)
    return dict(text=text, ids=ids, ids_special=special, **({} if plain == text else dict(decoded=plain)), **({} if skip == plain else dict(decoded_skip=skip)))


def drawn(seed, size, byte_ids, decode):
    """Random ids and their text; every second case draws mostly bytes."""
    rng, out = random.Random(seed), []
    for n in range(40):
        pool = byte_ids if n % 2 and byte_ids else range(size)
        ids = [rng.choice(pool) if rng.random() < 0.85 else rng.randrange(size) for _ in range(rng.randint(1, 10))]
        text, skip = decode(ids, False), decode(ids, True)
        out.append(dict(ids=ids, text=text, **({} if skip == text else dict(text_skip=skip))))
    return out


def tokenizer_goldens(name):
    tok = Tokenizer.from_file(str(OUT / name / "tokenizer.json"))
    encode = [encoded(text, lambda t, special: tok.encode(t, add_special_tokens=special).ids, decode_ids(tok)) for text in strings(11)[::2]]
    bytes_ = sorted(i for t, i in tok.get_vocab().items() if (t.startswith("<0x") and t.endswith(">")) or (len(t) == 1 and ord(t) > 0x7e))
    decode = drawn(12, tok.get_vocab_size(), bytes_, decode_ids(tok))
    write(OUT / name / "golden.json", dict(tokenizers=tokenizers.__version__, encode=encode, decode=decode))
    print(f"{name}: {tok.get_vocab_size()} tokens, {len(encode)} texts, {sum(len(e['ids']) for e in encode)} ids")


def pipeline_goldens():
    import text_pipelines
    models, texts = text_pipelines.models(), strings(21)[::3] + ["".join(random.Random(n).choice(ALPHABET) for _ in range(8)) for n in range(40)]
    out = text_pipelines.pipelines(models, text_pipelines.small_charsmap())
    for name, pipeline in out.items():
        tok = Tokenizer.from_str(json.dumps(text_pipelines.assemble(pipeline, models)))
        rng, size = random.Random(22), tok.get_vocab_size()
        pipeline["ids"] = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        special = [tok.encode(t, add_special_tokens=True).ids for t in texts]
        pipeline["special"] = special[:8]
        pipeline["decoded"] = [tok.decode(ids) for ids in special[::2]]
        drawn = [[rng.randrange(size) for _ in range(rng.randint(1, 8))] for _ in range(16)]
        pipeline["decode"] = [[ids, tok.decode(ids, skip_special_tokens=False)] for ids in drawn]
        print(f"{name}: {sum(map(len, pipeline['ids']))} ids")
    write(OUT / "pipelines.json", dict(models=models, texts=texts, pipelines=out))


def template_goldens():
    cases = []
    for name, source, context in text_templates.ENGINE:
        case = dict(name=name, template=source, context=context)
        try:
            case["expected"] = _compile_jinja_template(source).render(**context)
        except (jinja2.TemplateError, TypeError, ValueError, ZeroDivisionError, OverflowError) as e:
            case["error"] = f"{type(e).__name__}: {e}"
        cases.append(case)
    assert len({c["name"] for c in cases}) == len(cases)
    write(OUT / "templates.json", dict(transformers=transformers.__version__, jinja2=jinja2.__version__, cases=cases))
    print(f"templates: {len(cases)} cases, {sum('error' in c for c in cases)} of them errors")
    for name, expected in text_templates.PINNED.items():
        got = next(c for c in cases if c["name"] == name)
        assert got.get("expected") == expected, (name, got, expected)


def chat_template_goldens():
    import text_chat_templates as chat
    builtin = {f"builtin/{n}": (s, dict(bos_token="<s>", eos_token="</s>"), ["user", "system_user", "turns", "parts", "two_calls", "unknown_role"]) for n, s in chat.builtin().items()}
    known = {n: (s, tokens, list(text_templates.CONVERSATIONS)) for n, (s, tokens) in text_templates.CHAT.items()}
    assert not known.keys() & chat.FAMILIES.keys()
    out, used, errors = {}, set(), 0
    for name, (source, tokens, conversations) in {**known, **chat.FAMILIES, **builtin}.items():
        cases = []
        for title in conversations:
            conversation = chat.CONVERSATIONS[title]
            used.add(title)
            for prompt in (False, True) if name in known or title in ("user", conversations[-1]) else (True,):
                case = dict(conversation=title, add_generation_prompt=prompt)
                try:
                    case["expected"] = render_jinja_template(conversations=[conversation["messages"]], tools=conversation.get("tools"), documents=conversation.get("documents"), chat_template=source,
                                                             add_generation_prompt=prompt, **tokens, **conversation.get("extra", {}))[0][0]
                except (jinja2.TemplateError, TypeError, ValueError) as e:
                    case["error"] = f"{type(e).__name__}: {e}"
                    errors += 1
                cases.append(case)
        out[name] = dict(source=source, tokens=tokens, cases=cases)
    conversations = {t: {"tools": None, "documents": None, "extra": {}, **chat.CONVERSATIONS[t]} for t in sorted(used)}
    write(OUT / "chat_templates.json", dict(conversations=conversations, templates=out))
    print(f"chat templates: {len(out)}, {sum(len(t['cases']) for t in out.values())} cases, {errors} of them errors")


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1" and tokenizers.__version__ == "0.22.2", "see the pinned versions above"
    sentencepiece_like()
    byte_level_like()
    for folder in sorted(p.name for p in OUT.iterdir() if (p / "tokenizer.json").exists()):
        tokenizer_goldens(folder)
    pipeline_goldens()
    template_goldens()
    chat_template_goldens()

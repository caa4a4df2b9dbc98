# SPDX-License-Identifier: Apache-2.0
"""Pipelines of the families' tokenizer.json files, and of every component beside them, over a few small shared models.

models(charsmap) gives {name: "model" object}; pipelines(models, charsmap) gives {name: tokenizer.json with "model" a name}. assemble()
puts the two together. The parts are written as the families' files have them.
"""
import base64
import io
import json
import pathlib
import tempfile

import make_text
import sentencepiece
from tokenizers import Regex, Tokenizer, models as token_models, normalizers, pre_tokenizers, trainers

CL100K = make_text.LLAMA3
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
LINES = [line.replace("\\n", "\n").replace("\\t", "\t") for line in make_text.TEXT.strip("\n").split("\n")]


# Rules of NFKC for a few characters, one that deletes, one to many, and sequences, as SentencePiece reads them.
_RULES = {"ﬁ": "fi", "Ａ": "A", "Ｆ": "F", "Ｌ": "L", "Ｕ": "U", "１": "1", "２": "2", "²": "2", "½": "1⁄2", "é": "é", "e\u0301": "é", "a\u0323": "ạ", "\u0340": "\u0300",
          "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\r": " ", "\u2028": " ", "\u200d": "", "\ufeff": "", "\u212b": "Å", "\u1112\u1161\u11ab": "한", "…": "..."}
RULES = "".join(" ".join(f"{ord(c):X}" for c in k) + "\t" + " ".join(f"{ord(c):X}" for c in v) + "\n" for k, v in _RULES.items())


def small_charsmap():
    with tempfile.TemporaryDirectory() as folder:
        tsv = pathlib.Path(folder) / "rules.tsv"
        tsv.write_text(RULES)
        return charsmap(normalization_rule_tsv=str(tsv))


def charsmap(**options):
    from sentencepiece import sentencepiece_model_pb2
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=out, vocab_size=600, model_type="bpe", character_coverage=0.98, minloglevel=2, **options)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(out.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def trained(model, trainer, pre_tokenizer, normalizer=None):
    tok = Tokenizer(model)
    tok.pre_tokenizer = pre_tokenizer
    if normalizer:
        tok.normalizer = normalizer
    tok.train_from_iterator(LINES, trainer)
    return json.loads(tok.to_str())["model"]


def models():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab, merges = make_text.learn(pre_tokenizers.ByteLevel(add_prefix_space=False), 700, alphabet=alphabet)
    out = dict(bytes=dict(type="BPE", vocab={t: i for i, t in enumerate(vocab)}, merges=[list(m) for m in merges]))
    out["bytes_whole"] = dict(out["bytes"], ignore_merges=True, merges=[list(m) for m in merges if "".join(m) not in ("Ġthe", "ing", "Ã£o", "ĠViá»ĩt")])
    spm = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    learnt, merges = make_text.learn(pre_tokenizers.Metaspace(), 500)
    merges += [("▁", "▁"), ("▁▁", "▁▁")]
    keep = {"▁"} | {c for c in learnt if len(c) == 1 and (ord(c) < 0x180 or c in "的一是。")}
    usable, kept = set(keep), []
    for a, b in merges:
        if a in usable and b in usable:
            kept.append([a, b])
            usable.add(a + b)
    spm += sorted(t for t in usable if len(t) > 1) + sorted(keep)
    out["spm"] = dict(type="BPE", vocab={t: i for i, t in enumerate(spm)}, merges=kept, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    pieces = trained(token_models.Unigram(), trainers.UnigramTrainer(vocab_size=420, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", initial_alphabet=[]),
                     pre_tokenizers.Metaspace())["vocab"]
    rare = {t for t, _ in pieces if len(t) == 1 and ord(t) > 0x250 and t != "▁"}  # these become unknown
    pieces = [[t, round(s, 4)] for t, s in pieces if t not in rare]
    out["unigram"] = dict(type="Unigram", unk_id=2, vocab=pieces + [[f"<extra_id_{i}>", 0.0] for i in (2, 1, 0)], byte_fallback=False)
    out["unigram_bytes"] = dict(type="Unigram", unk_id=2, vocab=pieces + [[f"<0x{b:02X}>", 0.0] for b in range(256)], byte_fallback=True)
    out["wordpiece"] = trained(token_models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=400, show_progress=False, limit_alphabet=120,
                               special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True))
    words = trained(token_models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=200, show_progress=False, special_tokens=["<unk>"]), pre_tokenizers.Whitespace())
    out["wordlevel"] = words
    out["suffix"] = trained(token_models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer(vocab_size=400, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<unk>"],
                            limit_alphabet=90), pre_tokenizers.WhitespaceSplit())
    out["prefix"] = trained(token_models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True), trainers.BpeTrainer(vocab_size=400, show_progress=False, continuing_subword_prefix="##",
                            special_tokens=["<unk>"], limit_alphabet=90), pre_tokenizers.WhitespaceSplit())
    for model in out.values():
        if isinstance(model["vocab"], dict):
            model["vocab"] = dict(sorted(model["vocab"].items(), key=lambda e: e[1]))
        for key in [k for k, v in model.items() if v is None]:
            del model[key]
    return out


def part(kind, **fields):
    return dict(type=kind, **fields)


def pipelines(models, charsmap):
    """name: dict(model=NAME, normalizer=, pre_tokenizer=, post_processor=, decoder=, added=[added tokens])."""
    level = part("ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    mapping = dict(level, use_regex=False)
    prefixed = dict(level, add_prefix_space=True)
    post = dict(level, trim_offsets=False)

    def seq(key, *items):
        return {"type": "Sequence", key: list(items)}

    def pre(*items):
        return seq("pretokenizers", *items)

    def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
        return part("Split", pattern={kind: pattern}, behavior=behavior, invert=invert)

    def metaspace(scheme="always", split=True):
        return part("Metaspace", replacement="▁", prepend_scheme=scheme, split=split)

    def replace(old, new, kind="String"):
        return part("Replace", pattern={kind: old}, content=new)

    def begin(model, token):
        return make_text.template(token, models[model]["vocab"][token])

    def around(before, after, ids):
        single = [part_of(t) for t in before] + [dict(Sequence=dict(id="A", type_id=0))] + [part_of(t) for t in after]
        return dict(type="TemplateProcessing", single=single, pair=single, special_tokens={t: dict(id=t, ids=[i], tokens=[t]) for t, i in ids.items()})

    def part_of(token):
        return dict(SpecialToken=dict(id=token, type_id=0))

    end = make_text.added("<|endoftext|>")
    size = len(models["bytes"]["vocab"])
    byte_level = dict(model="bytes", decoder=prefixed)
    out = {
        "gptj": dict(byte_level, pre_tokenizer=level, post_processor=post, added=[dict(end, normalized=True)]),
        "opt": dict(byte_level, pre_tokenizer=level, post_processor=around(["</s>"], [], {"</s>": size}), added=[make_text.added("</s>", normalized=True), make_text.added("<pad>", normalized=True)]),
        "neox": dict(byte_level, normalizer=part("NFC"), pre_tokenizer=level, post_processor=post, added=[end, make_text.added("    ", special=False, normalized=True), make_text.added("  ", special=False, normalized=True)]),
        "bloom": dict(byte_level, pre_tokenizer=pre(split(BLOOM), mapping), post_processor=post, added=[make_text.added(t) for t in ("<unk>", "<s>", "</s>", "<pad>")]),
        "falcon": dict(byte_level, pre_tokenizer=pre(part("Punctuation", behavior="Contiguous"), level, part("Digits", individual_digits=False), split("[0-9][0-9][0-9]")), added=[end, make_text.added(">>TITLE<<")]),
        "starcoder2": dict(byte_level, pre_tokenizer=pre(part("Digits", individual_digits=True), level), added=[end, make_text.added("<fim_prefix>")]),
        "olmo2": dict(byte_level, pre_tokenizer=pre(split(CL100K), mapping), added=[end]),
        "phi4": dict(byte_level, pre_tokenizer=pre(split(CL100K), mapping), added=[make_text.added("<|im_start|>", lstrip=True, rstrip=True), make_text.added("<|im_end|>", lstrip=True, rstrip=True), make_text.added("<|endoftext|>", lstrip=True, rstrip=True)]),
        "gpt_oss": dict(byte_level, model="bytes_whole", pre_tokenizer=pre(split(O200K, "Removed", True), mapping), added=[make_text.added("<|start|>"), make_text.added("<|end|>")]),
        "tekken": dict(byte_level, model="bytes_whole", pre_tokenizer=pre(split(TEKKEN), mapping), post_processor=around(["<s>"], [], {"<s>": size}), added=[make_text.added(t) for t in ("<s>", "</s>", "[INST]", "[/INST]")]),
        "deepseek3": dict(byte_level, pre_tokenizer=pre(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), mapping), post_processor=around(["<｜begin▁of▁sentence｜>"], [], {"<｜begin▁of▁sentence｜>": size}),
                          added=[make_text.added("<｜begin▁of▁sentence｜>"), make_text.added("<｜User｜>", special=False)]),
        "roberta": dict(byte_level, pre_tokenizer=prefixed, post_processor=part("RobertaProcessing", sep=["</s>", size + 1], cls=["<s>", size], trim_offsets=True, add_prefix_space=True),
                        added=[make_text.added("<s>", normalized=True), make_text.added("</s>", normalized=True), make_text.added("<mask>", normalized=True, lstrip=True)]),
        "byte_normalizer": dict(byte_level, normalizer=seq("normalizers", part("NFKC"), part("ByteLevel")), added=[end]),
        "gemma": dict(model="spm", normalizer=replace(" ", "▁"), pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"), post_processor=begin("spm", "<s>"),
                      decoder=seq("decoders", replace("▁", " "), part("ByteFallback"), part("Fuse")), added=[make_text.added("<s>"), make_text.added("</s>"), make_text.added("<start_of_turn>"), make_text.added("\n\n", special=False), make_text.added("▁▁", special=False)]),
        "phi3": dict(model="spm", normalizer=seq("normalizers", part("Prepend", prepend="▁"), replace(" ", "▁")), post_processor=begin("spm", "<s>"),
                     decoder=seq("decoders", replace("▁", " "), part("ByteFallback"), part("Fuse"), part("Strip", content=" ", start=1, stop=0)),
                     added=[make_text.added("<s>"), make_text.added("</s>", rstrip=True, special=False), make_text.added("<|user|>", rstrip=True), make_text.added("<|end|>", rstrip=True), make_text.added("<|endoftext|>")]),
        "t5": dict(model="unigram", normalizer=part("Precompiled", precompiled_charsmap=charsmap), pre_tokenizer=pre(part("WhitespaceSplit"), metaspace()), post_processor=around([], ["</s>"], {"</s>": 1}), decoder=metaspace(),
                   added=[make_text.added(t) for t in ("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>")]),
        "t5_converted": dict(model="unigram", normalizer=seq("normalizers", part("Precompiled", precompiled_charsmap=charsmap), part("Strip", strip_left=False, strip_right=True), replace(" {2,}", "▁", "Regex")),
                             pre_tokenizer=metaspace(), post_processor=around([], ["</s>"], {"</s>": 1}), decoder=metaspace(), added=[make_text.added(t) for t in ("<pad>", "</s>", "<unk>")]),
        "unigram_bytes": dict(model="unigram_bytes", normalizer=seq("normalizers", part("Nmt"), part("NFKC")), pre_tokenizer=metaspace("first", False), decoder=seq("decoders", part("ByteFallback"), metaspace("first", False)),
                              added=[make_text.added("</s>")]),
        "bert": dict(model="wordpiece", normalizer=part("BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True), pre_tokenizer=part("BertPreTokenizer"),
                     post_processor=part("BertProcessing", sep=["[SEP]", 3], cls=["[CLS]", 2]), decoder=part("WordPiece", prefix="##", cleanup=True), added=[make_text.added(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]),
        "bert_cased": dict(model="wordpiece", normalizer=part("BertNormalizer", clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False), pre_tokenizer=part("BertPreTokenizer"),
                           decoder=part("WordPiece", prefix="##", cleanup=False), added=[make_text.added("[MASK]", lstrip=True)]),
        "wordlevel": dict(model="wordlevel", normalizer=seq("normalizers", part("NFKD"), part("StripAccents"), part("Strip", strip_left=True, strip_right=True)), pre_tokenizer=part("Whitespace"), added=[make_text.added("<unk>")]),
        "clip": dict(model="suffix", normalizer=seq("normalizers", part("NFC"), replace(r"\s+", " ", "Regex"), part("Lowercase")), pre_tokenizer=part("WhitespaceSplit"), decoder=part("BPEDecoder", suffix="</w>"), added=[make_text.added("<unk>")]),
        "prefix": dict(model="prefix", normalizer=part("NFD"), pre_tokenizer=pre(part("WhitespaceSplit"), part("Punctuation", behavior="MergedWithPrevious")), decoder=part("WordPiece", prefix="##", cleanup=True), added=[make_text.added("<unk>")]),
        "delimiters": dict(byte_level, pre_tokenizer=pre(part("CharDelimiterSplit", delimiter="e"), part("FixedLength", length=3), part("Punctuation", behavior="MergedWithNext"), mapping)),
        "split_literal": dict(byte_level, pre_tokenizer=pre(split("th", "MergedWithNext", kind="String"), split(r"\d", "Contiguous"), split(r"[a-z]+", "Removed", True), mapping)),
        "split_any": dict(byte_level, pre_tokenizer=pre(split(r"(?<=a)b*|\bthe\b|.$", "MergedWithPrevious"), mapping)),
    }
    for name, pipeline in out.items():
        for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            pipeline.setdefault(key, None)
        model = models[pipeline["model"]]
        known = model["vocab"] if isinstance(model["vocab"], dict) else {t: i for i, (t, _) in enumerate(model["vocab"])}
        ids, after = [], len(known)
        for token in pipeline.pop("added", []):
            ids.append(dict(id=known.get(token["content"], after), **token))
            after += token["content"] not in known
        pipeline["added_tokens"] = sorted(ids, key=lambda t: t["id"])
    return out


def assemble(pipeline, models):
    return dict(version="1.0", truncation=None, padding=None, **{**pipeline, "model": models[pipeline["model"]]})

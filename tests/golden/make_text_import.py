# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/text/import_*/: small tokenizers without tokenizer.json, with reference ids and texts.

Rerun from the repository root, in a Python environment with the pinned packages:
    pip install transformers==4.57.1 tokenizers==0.22.2 jinja2==3.1.6 sentencepiece==0.2.1 tiktoken==0.14.0 protobuf
    python tests/golden/make_text_import.py

golden.json is laid out as tests/golden/make_text.py says. The reference is what transformers' fast class makes of the files; SentencePiece
models are checked against the sentencepiece package too, and for the tiktoken file the ids are the tiktoken package's own.
"""
import base64
import io
import json
import pathlib
import random
import shutil
import tempfile

import make_text
import sentencepiece
import text_pipelines
import tiktoken
import transformers
from tokenizers import Regex, pre_tokenizers
from transformers import GemmaTokenizerFast, GPT2TokenizerFast, LlamaTokenizerFast, T5TokenizerFast

OUT = make_text.OUT
LINES = [line.replace("\\n", "\n").replace("\\t", "\t") for line in make_text.TEXT.strip("\n").split("\n")]


def folder(name, **files):
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for key, value in files.items():
        make_text.write(out / f"{key}.json", value)
    return out


def write_golden(out, encode, decode, size, byte_ids, every=3):
    """encode(text, special) gives ids, decode(ids, skip) text."""
    cases = [make_text.encoded(text, encode, decode) for text in make_text.strings(13)[::every]]
    make_text.write(out / "golden.json", dict(transformers=transformers.__version__, sentencepiece=sentencepiece.__version__, tiktoken=tiktoken.__version__,
                                              encode=cases, decode=make_text.drawn(14, size, byte_ids, decode)))
    print(f"{out.name}: {size} tokens, {len(cases)} texts, {sum(len(c['ids']) for c in cases)} ids, {sum(p.stat().st_size for p in out.iterdir()) // 1024} KiB")


def from_fast(out, fast, every=3):
    tok = fast.backend_tokenizer
    vocab = tok.get_vocab()
    byte_ids = sorted(i for t, i in vocab.items() if (t.startswith("<0x") and t.endswith(">")) or (len(t) == 1 and ord(t) > 0x7e))
    write_golden(out, lambda text, special: tok.encode(text, add_special_tokens=special).ids, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip),
                 len(vocab), byte_ids or [0], every)


def write_shared(path, data, first):
    """The same bytes for several folders: the others link to the first one's."""
    if path.parent.name == first:
        path.write_bytes(data)
    else:
        assert (path.parent.parent / first / path.name).read_bytes() == data
        path.symlink_to(f"../{first}/{path.name}")


def merges_files():
    vocab, merges = make_text.learn(pre_tokenizers.ByteLevel(add_prefix_space=False), 700, alphabet=pre_tokenizers.ByteLevel.alphabet())
    merges += [("#", "#"), ("Ġ", "#")]  # lines that look like comments
    vocab += [t for t in ("##", "Ġ#") if t not in vocab] + ["<|endoftext|>"]

    def write(name, vocab, **files):
        out = folder(name, vocab={t: i for i, t in enumerate(vocab)}, **files)
        write_shared(out / "merges.txt", ("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n").encode(), "import_gpt2")
        from_fast(out, GPT2TokenizerFast.from_pretrained(out))

    write("import_gpt2", vocab)
    # OPT: </s> first, and tokens added later.
    opt = ["<s>", "<pad>", "</s>", "<unk>"] + vocab[:-1]
    write("import_opt", opt, added_tokens={"<extra>": len(opt), "<mask_2>": len(opt) + 1},
          special_tokens_map=dict(bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>"),
          tokenizer_config=dict(tokenizer_class="GPT2Tokenizer", add_bos_token=True, add_prefix_space=False, errors="replace"))


def train(out, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3), model_writer=model, vocab_size=900, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        character_coverage=0.98, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2, **options)
    (out / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def agree(name, sp, fast, leading_space=True):
    """Away from added tokens, the converted tokenizer must be the model it came from. Metaspace puts no ▁ before one that is there."""
    tok, marks, compared = fast.backend_tokenizer, {t.content for t in fast.added_tokens_decoder.values()}, 0
    for text in make_text.strings(13):
        if any(m in text for m in marks) or "▁" in text or "\0" in text or (text.startswith(" ") and not leading_space):
            continue
        expected = sp.encode(text)
        got = tok.encode(text, add_special_tokens=False).ids
        assert got == expected, (name, text, got, expected)
        compared += 1
    assert compared > 100, compared


def sentencepiece_files():
    out = folder("import_spm")
    sp = train(out, remove_extra_whitespaces=False)
    fast = LlamaTokenizerFast.from_pretrained(out, legacy=True)
    agree("import_spm", sp, fast)
    from_fast(out, fast)
    out = folder("import_spm_first", tokenizer_config=dict(tokenizer_class="LlamaTokenizer", legacy=False, add_bos_token=True, add_eos_token=True, bos_token="<s>", eos_token="</s>", unk_token="<unk>"))
    sp = train(out, remove_extra_whitespaces=False, user_defined_symbols=["[INST]", "[/INST]"])
    fast = LlamaTokenizerFast.from_pretrained(out)
    agree("import_spm_first", sp, fast, leading_space=False)
    from_fast(out, fast)
    out = folder("import_spm_gemma", tokenizer_config=dict(tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"))
    sp = train(out, remove_extra_whitespaces=False, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>")
    fast = GemmaTokenizerFast.from_pretrained(out)
    agree("import_spm_gemma", sp, fast)
    from_fast(out, fast)


def unigram_files():
    """T5's spiece.model, with a small normalisation map; the older and the newer handling of text after added tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = pathlib.Path(scratch) / "rules.tsv"
        rules.write_text(text_pipelines.RULES)
        for name, config in (("import_t5", {}), ("import_t5_first", dict(tokenizer_class="T5Tokenizer", legacy=False, extra_ids=5))):
            out = folder(name, tokenizer_config=config)
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(LINES * 3), model_writer=model, vocab_size=420, model_type="unigram", character_coverage=0.98, minloglevel=2,
                pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=str(rules))
            write_shared(out / "spiece.model", model.getvalue(), "import_t5")
            from_fast(out, T5TokenizerFast.from_pretrained(out), every=2)


def tiktoken_file():
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(make_text.LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab, merges = make_text.learn(split, 900, alphabet=alphabet)
    to_byte = {c: b for b, c in transformers.models.gpt2.tokenization_gpt2.bytes_to_unicode().items()}
    tokens = [bytes([b]) for b in range(256)]
    for a, b in merges:
        token = bytes(to_byte[c] for c in a + b)
        if token not in tokens:
            tokens.append(token)
    ranks = {t: i for i, t in enumerate(tokens)}
    names = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 5: "<|step_id|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>",
             8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>"}
    reserved = iter(range(256))
    specials = {names.get(i) or f"<|reserved_special_token_{next(reserved)}|>": len(tokens) + i for i in range(256)}
    encoding = tiktoken.Encoding("llama3", pat_str=make_text.LLAMA3, mergeable_ranks=ranks, special_tokens=specials)
    out = folder("import_tiktoken")
    (out / "tokenizer.model").write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in ranks.items()))
    marks = set(specials.values())
    write_golden(out, lambda text, special: [len(tokens)] * special + encoding.encode(text, allowed_special="all"),
                 lambda ids, skip: encoding.decode([i for i in ids if not (skip and i in marks)]), len(tokens) + 256, range(128, 256))


if __name__ == "__main__":
    assert transformers.__version__ == "4.57.1", f"needs transformers 4.57.1, found {transformers.__version__}"
    merges_files()
    sentencepiece_files()
    unigram_files()
    tiktoken_file()

"""tokenizer.json files of the kinds that byte-level BPE models have: same ids here as in Hugging Face's tokenizers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.alphabet import from_alphabet
from gollm.tokenizers.files.huggingface import bpe
from gollm.tokenizers.patterns import REGEXES

huggingface = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors, trainers  # noqa: E402
from tokenizers import pre_tokenizers as pre  # noqa: E402

SOURCES = sorted((Path(__file__).resolve().parents[2] / "python/gollm/tokenizers").glob("*.py"))
CORPUS = [
    *(path.read_text() for path in SOURCES),
    "été naïve e\u0301te\u0301 漢字かな 한국어 हिन्दी مرحبا 12345 ½² 'LL I'll they'RE 👩\u200d👩\u200d👧 \n\n  x\t" * 20,
]

# Mistral-Nemo's, which the C core does not know.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
KINDS = ["gpt2", "llama3", "qwen2", "cl100k", "o200k", "smollm", "nemo", "bloom", "neox", "roberta"]
ADDED = ["<|end|>", "<|end|>x", "<tool>", "<é>", "  ", "\t\t", "e\u0301!", "<mask>", "word", "#", "<s>", "</s>"]


def split(regex: str) -> Any:
    isolated = pre.Split(Regex(regex), "isolated", invert=False)
    return pre.Sequence([isolated, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


@cache
def theirs(kind: str) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=kind == "roberta")
    if kind in REGEXES and kind != "gpt2":
        tokenizer.pre_tokenizer = split(REGEXES[kind])
    if kind in ("nemo", "bloom"):
        tokenizer.pre_tokenizer = split(TEKKEN if kind == "nemo" else BLOOM)
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(False)])
    if kind in ("qwen2", "neox"):
        tokenizer.normalizer = normalizers.NFC()
    alphabet = [] if kind == "smollm" else pre.ByteLevel.alphabet()  # bytes that don't occur have no token
    special = ["<s>", "</s>", "<|end|>", "<|end|>x"]
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind == "llama3":
        document = json.loads(tokenizer.to_str())
        document["model"]["ignore_merges"] = True
        document["model"]["merges"] = document["model"]["merges"][::2]  # tokens that no merge makes any more
        made = {"".join(merge) for merge in document["model"]["merges"]}
        document["model"]["merges"] = [
            merge for merge in document["model"]["merges"] if all(len(part) == 1 or part in made for part in merge)
        ]
        tokenizer = Tokenizer.from_str(json.dumps(document))
    if kind in ("llama3", "roberta"):
        end = [] if kind == "llama3" else ["</s>"]
        template = processors.TemplateProcessing(
            single=" ".join(["<s>", "$A", *end]), special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    if kind == "qwen2":
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False), "<é>"])
    if kind == "neox":
        tokenizer.add_tokens([AddedToken("  ", normalized=True), AddedToken("\t\t"), AddedToken("e\u0301!")])
        tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("#", rstrip=True, normalized=False)])
    if kind == "roberta":
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


@cache
def ours(kind: str) -> BPETokenizer:
    document = json.loads(theirs(kind).to_str())
    found = bpe.parse(document, Path("tokenizer.json"))
    assert isinstance(found, BPETokenizer)
    return found


def assert_same(mine: BPETokenizer, other: Any, text: str) -> None:
    for add in (False, True):
        expected = other.encode(text, add_special_tokens=add).ids
        assert mine.encode(text, allowed_special="all", add_special_tokens=add).tolist() == expected
    other.encode_special_tokens = True
    try:
        assert mine.encode(text).tolist() == other.encode(text, add_special_tokens=False).ids
    finally:
        other.encode_special_tokens = False


HORRORS = [
    *" \t\n\r\v\x1c\x85\xa0\u1680\u2028\u3000\ufeff\u200b",
    *["'s", "'LL", "'ſ", "'rE", "’s", "'", "aZ", "é", "ß", "ǆ", "ǅ", "ʰ", "ª", "漢字", "が", "한", "ا", "किं"],
    *["\u0301", "\u0345", "e\u0301", "\u20dd", "\u1100\u1161", "ﬁ", "\U0001d400", "\u212b"],
    *["0", "12345", "²", "½", "Ⅷ"],
    *["٣", "①", "!", "_", "/", "//", "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "\x00", "\x7f", "\ue000", "\ufffd", "\uffff"],
    *["\U0010ffff", " the", "self.", "word", "words", "  ", "x" * 20, " " * 70, "=" * 70],
]
TEXT = st.one_of(
    st.lists(st.sampled_from(HORRORS + ADDED), max_size=25).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(TEXT)
@example("a <mask> b<s></s><|end|>xy  # word, sword  \t\t e\u0301! <tool><é>")
def test_ids(kind: str, text: str) -> None:
    assert_same(ours(kind), theirs(kind), text)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_loads_there_and_here(kind: str, tmp_path: Path) -> None:
    tokenizers.save(ours(kind), tmp_path / "tokenizer.json", "huggingface")
    exported = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = tokenizers.load(tmp_path)
    assert isinstance(again, BPETokenizer)
    tokenizers.save(ours(kind), tmp_path / "own.json")
    own = tokenizers.load(tmp_path / "own.json")
    assert isinstance(own, BPETokenizer)
    text = CORPUS[0][:3000] + CORPUS[-1] + "".join(HORRORS) + " ".join(ADDED) + "<s>" + "".join(ADDED)
    for one in (again, own):
        assert one.to_state()[0] == ours(kind).to_state()[0]
        assert_same(one, theirs(kind), text)
        assert_same(one, exported, text)
    for token in ours(kind).added_tokens:
        assert exported.token_to_id(token.spelling) == token.id


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen2", "cl100k", "o200k", "smollm"])
def test_trained_here_gives_the_same_ids_there(kind: str, tmp_path: Path) -> None:
    mine = BPETokenizer.train(CORPUS, 800, pattern=kind, special_tokens=["<|end|>"])
    tokenizers.save(mine, tmp_path / "tokenizer.json", "huggingface")
    exported = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (CORPUS[3], CORPUS[-1], "".join(HORRORS)):
        assert_same(mine, exported, text + "<|end|>")


@pytest.mark.parametrize("kind", ["llama3", "cl100k", "o200k", "smollm"])
def test_training_finds_their_merges(kind: str) -> None:
    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = theirs(kind).pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False, min_frequency=2
    )
    peer.train_from_iterator(CORPUS, trainer)
    mine = BPETokenizer.train(CORPUS, 1500, pattern=kind)
    spelled = [[mine.vocabulary[i] for i in merge[:2]] for merge in mine.merges.tolist()]
    merges = json.loads(peer.to_str())["model"]["merges"]
    assert spelled == [[from_alphabet(part) for part in merge] for merge in merges]

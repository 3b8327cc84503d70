"""WordPiece against Hugging Face's tokenizers: BERT's normalisation, words, ids, decoding, and files both ways."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import _native, tokenizers
from gollm.tokenizers import WordPieceTokenizer
from gollm.tokenizers.wordpiece import SPECIAL_TOKENS
from horrors import TEXTS

huggingface = pytest.importorskip("tokenizers")

CORPUS = [path.read_text() for path in sorted(Path(__file__).resolve().parents[2].glob("*.md"))] + [
    "Größe naïve Café e\u0301 don't won't. 漢字 한국어 русский Ελληνικά שלום مرحبا हिन्दी 🙂 do not I'm we've ''s !?,"
] * 3
CASES = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "accents": {"lowercase": True, "strip_accents": False},
    "only accents": {"lowercase": False, "strip_accents": True},
    "raw": {"lowercase": False, "clean_text": False, "handle_chinese_chars": False},
}


def theirs_of(ours: WordPieceTokenizer, case: dict[str, Any]) -> Any:
    vocab = {token.decode(): i for i, token in enumerate(ours.vocabulary)}
    made = huggingface.Tokenizer(huggingface.models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = huggingface.normalizers.BertNormalizer(**case)
    made.pre_tokenizer = huggingface.pre_tokenizers.BertPreTokenizer()
    made.decoder = huggingface.decoders.WordPiece()
    made.post_processor = huggingface.processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    made.add_special_tokens(list(SPECIAL_TOKENS))
    return made


def make(case: dict[str, Any]) -> tuple[WordPieceTokenizer, Any]:
    trained = WordPieceTokenizer.train(CORPUS, 900, lowercase=case["lowercase"])
    ours = WordPieceTokenizer(
        trained.vocabulary,
        trained.special_tokens,
        lowercase=case["lowercase"],
        strip_accents=case.get("strip_accents", case["lowercase"]),
        clean_text=case.get("clean_text", True),
        space_chinese=case.get("handle_chinese_chars", True),
        prefix=trained.prefix,
        suffix=trained.suffix,
    )
    return ours, theirs_of(ours, case)


BOTH = {name: make(case) for name, case in CASES.items()}


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("")
@example("[CLS] a [MASK]b[SEP]")
@example("x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " " + "漢" * 101)
@example("##a # # a##b")
def test_ids_are_theirs(text: str) -> None:
    for name, (ours, theirs) in BOTH.items():
        expected = theirs.encode(text).ids
        assert ours.encode(text, allowed_special="all", add_special_tokens=True).tolist() == expected, name


@pytest.mark.slow
def test_every_character_is_treated_as_theirs() -> None:
    """Each code point alone, and inside of a word."""
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    split = huggingface.pre_tokenizers.BertPreTokenizer()
    for case in CASES.values():
        normalizer = huggingface.normalizers.BertNormalizer(**case)
        switches = (
            case.get("clean_text", True),
            case.get("handle_chinese_chars", True),
            case.get("strip_accents", case["lowercase"]),
            case["lowercase"],
        )
        for start in range(0, len(codes), 60_000):
            text = "\n".join(f"{chr(c)} x{chr(c)}y" for c in codes[start : start + 60_000])
            expected = [word for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text))]
            assert _native.bert_words(text, *switches) == expected


def test_ids_of_long_texts_are_theirs() -> None:
    generator = random.Random(4)
    texts = ["a" * 1_000_000, " " * 100_000, "a " * 20_000, "!" * 20_000, "\n".join(CORPUS), "\u0301" * 10_000]
    texts += ["".join(generator.choice("ab cde\u0301.É漢") for _ in range(300)) for _ in range(100)]
    for ours, theirs in BOTH.values():
        for text in texts:
            assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(0, 899), max_size=20))
def test_decoding_is_theirs(name: str, ids: list[int]) -> None:
    ours, theirs = BOTH[name]
    ids = [i for i in ids if i < ours.vocab_size]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    decoder = ours.decoder()
    assert "".join(map(decoder.push, ids)) + decoder.finish() == ours.decode(ids)


def test_special_tokens_in_text_are_not_forged() -> None:
    for ours, _ in BOTH.values():
        ids = set(ours.encode("[CLS] [MASK][SEP]a").tolist())
        assert not ids & (set(ours.special_tokens.values()) - {ours.special_tokens["[UNK]"]})


@pytest.mark.parametrize("name", CASES)
def test_their_file_loads_here_and_ours_there(name: str, tmp_path: Path) -> None:
    ours, theirs = BOTH[name]
    theirs.save(str(tmp_path / "theirs.json"))
    imported = tokenizers.load(tmp_path / "theirs.json")
    tokenizers.save(ours, tmp_path / "ours.json", "huggingface")
    exported = huggingface.Tokenizer.from_file(str(tmp_path / "ours.json"))
    again = tokenizers.load(tmp_path / "ours.json")
    for text in [*CORPUS, "[CLS]a[SEP] É ##b", ""]:
        expected = theirs.encode(text).ids
        assert exported.encode(text).ids == expected
        for one in (imported, again):
            assert one.encode(text, allowed_special="all", add_special_tokens=True).tolist() == expected


@pytest.mark.parametrize("name", ["uncased", "cased"])
def test_vocab_txt_both_ways(name: str, tmp_path: Path) -> None:
    ours, theirs = BOTH[name]
    tokenizers.save(ours, tmp_path / "vocab.txt", "bert")
    peer = huggingface.BertWordPieceTokenizer(
        str(tmp_path / "vocab.txt"), lowercase=ours.lowercase, strip_accents=ours.strip_accents
    )
    for again in (tokenizers.load(tmp_path), tokenizers.load(tmp_path / "vocab.txt", lowercase=ours.lowercase)):
        assert again.to_state()[0] == ours.to_state()[0]
        for text in CORPUS:
            assert again.encode(text, add_special_tokens=True).tolist() == peer.encode(text).ids
    theirs.model.save(str(tmp_path), "theirs")
    assert (tmp_path / "theirs-vocab.txt").read_text() == (tmp_path / "vocab.txt").read_text()


@pytest.mark.parametrize("vocab_size", [33, 36, 38, 60])
def test_training_finds_their_vocabulary_where_no_counts_are_equal(vocab_size: int) -> None:
    """Theirs numbers the characters behind "##" in an order that changes from run to run, and with it which of equally
    frequent pairs comes first; so here every word begins with another one and all counts differ."""
    words = ["ab", "abc", "abcd", "ef", "efg", "hi", "hia", "hiab", "ca", "cab"]
    texts = [" ".join([word] * (3 + 2**i)) for i, word in enumerate(words)]
    theirs = huggingface.Tokenizer(huggingface.models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = huggingface.normalizers.BertNormalizer()
    theirs.pre_tokenizer = huggingface.pre_tokenizers.BertPreTokenizer()
    trainer = huggingface.trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    ours = WordPieceTokenizer.train(texts, vocab_size)
    vocab = json.loads(theirs.to_str())["model"]["vocab"]
    assert {token.decode() for token in ours.vocabulary} == set(vocab)

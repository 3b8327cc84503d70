"""LLaMA-2's kind of tokenizer.json, in its old and its new form, against Hugging Face's tokenizers."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from gollm import tokenizers
from gollm.errors import TokenizerError
from gollm.tokenizers import SentencePieceTokenizer
from horrors import TEXTS

huggingface = pytest.importorskip("tokenizers")

MARK = "\u2581"
CORPUS = [path.read_text() for path in sorted(Path(__file__).resolve().parents[2].glob("*.md"))] + [
    "a  b   c    d\t\te\n\nf        g é漢字 aa aaa aaaa aaaaa"
]
PREPEND = {"type": "Prepend", "prepend": MARK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
JOIN = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
OLD = {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, "pre_tokenizer": None}


def metaspace(scheme: str, split: bool) -> dict[str, Any]:
    parts = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": parts}


FORMS: dict[str, dict[str, Any]] = {
    "old": OLD,
    "old, normalized added tokens": {**OLD, "normalized": True},
    "old, never": {"normalizer": REPLACE, "pre_tokenizer": None},
    "first": metaspace("first", False),
    "always": metaspace("always", False),
    "never": metaspace("never", False),
    "first, split": metaspace("first", True),
    "no bytes": {**OLD, "byte_fallback": False},
    "no bytes, unfused": {**OLD, "byte_fallback": False, "fuse_unk": False},
}
SPECIAL = ["<unk>", "<s>", "</s>"]


def document(form: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json with merges that Hugging Face's trainer learns, laid out as LLaMA-2's."""
    trained = huggingface.Tokenizer(huggingface.models.BPE())
    trained.pre_tokenizer = huggingface.pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if form.get("byte_fallback", True) else []
    trainer = huggingface.trainers.BpeTrainer(vocab_size=700 + len(bytes_), special_tokens=SPECIAL + bytes_)
    trained.train_from_iterator(CORPUS, trainer)
    found = json.loads(trained.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    found["added_tokens"] = [
        {"id": i, "content": token, "normalized": form.get("normalized", False), **flags}
        for i, token in enumerate(SPECIAL)
    ]
    found["normalizer"], found["pre_tokenizer"] = form["normalizer"], form["pre_tokenizer"]
    never = form["normalizer"] == REPLACE or (form["pre_tokenizer"] or {}).get("prepend_scheme") == "never"
    found["decoder"] = {"type": "Sequence", "decoders": JOIN + ([] if never else [STRIP])}
    begin = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    found["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": begin},
    }
    found["model"] |= {
        "unk_token": "<unk>",
        "fuse_unk": form.get("fuse_unk", True),
        "byte_fallback": form.get("byte_fallback", True),
    }
    return found


@cache
def both(name: str) -> tuple[SentencePieceTokenizer, Any]:
    text = json.dumps(document(FORMS[name]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(text)
        ours = tokenizers.load(folder)
    assert isinstance(ours, SentencePieceTokenizer)
    return ours, huggingface.Tokenizer.from_str(text)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("")
@example(" ")
@example("<s>a<s> b </s>")
@example("a<s>b</s>")
@example(" a")
def test_ids_are_theirs(text: str) -> None:
    for name in FORMS:
        ours, theirs = both(name)
        expected = theirs.encode(text).ids
        assert ours.encode(text, allowed_special="all", add_special_tokens=True).tolist() == expected, name


def test_ids_of_long_texts_are_theirs() -> None:
    generator = random.Random(2)
    texts = ["ab" * 3000, " " * 5000, "\n".join(CORPUS)]
    texts += ["".join(generator.choice("aabc e\n é") for _ in range(200)) for _ in range(200)]
    for name in FORMS:
        ours, theirs = both(name)
        for text in texts:
            assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_decoding_is_theirs(text: str) -> None:
    for name in FORMS:
        ours, theirs = both(name)
        ids = ours.encode(text).tolist()
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), name
        decoder = ours.decoder()
        assert "".join(map(decoder.push, ids)) + decoder.finish() == ours.decode(ids)


def test_special_tokens_in_text_are_not_forged() -> None:
    for name in FORMS:
        ours = both(name)[0]
        assert not set(ours.special_tokens.values()) & set(ours.encode("<s>a</s><s> b").tolist()) - {0}
        assert ours.encode("<s>", allowed_special="all").tolist() == [1]


@pytest.mark.parametrize("name", FORMS)
def test_what_is_written_loads_there(name: str, tmp_path: Path) -> None:
    ours, theirs = both(name)
    tokenizers.save(ours, tmp_path / "tokenizer.json", "huggingface")
    again = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.load(tmp_path)
    for text in [*CORPUS, "<s>a  b</s> é漢字\u2581 🙂", ""]:
        expected = theirs.encode(text).ids
        assert again.encode(text).ids == expected
        assert loaded.encode(text, allowed_special="all", add_special_tokens=True).tolist() == expected


@pytest.mark.parametrize("fallback", [True, False])
def test_a_sentencepiece_model_becomes_a_tokenizer_json(fallback: bool, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [line for text in CORPUS for line in text.split("\n")]
    with (tmp_path / "m.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, model_type="bpe", minloglevel=2, vocab_size=900,
            byte_fallback=fallback, normalization_rule_name="identity", remove_extra_whitespaces=False,
        )  # fmt: skip
    ours = tokenizers.load(tmp_path / "m.model")
    assert isinstance(ours, SentencePieceTokenizer)
    tokenizers.save(ours, tmp_path / "tokenizer.json", "huggingface")
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = tokenizers.load(tmp_path / "tokenizer.json")
    assert isinstance(again, SentencePieceTokenizer)
    generator = random.Random(3)
    texts = [*CORPUS, *("".join(generator.choice("aabc e\n é漢") for _ in range(300)) for _ in range(100))]
    for text in texts:
        ids = ours.encode(text).tolist()
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert again.encode(text).tolist() == ids
    tokenizers.save(again, tmp_path / "again.model", "sentencepiece")  # scores that stand for the same merges
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "again.model"))
    for text in texts:
        assert peer.encode(text) == ours.encode(text).tolist()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE, PREPEND]}}, "normalizer"),
        ({"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE, {"type": "NFC"}]}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Split"}}, "normalizer beside a pre_tokenizer"),
        ({"decoder": {"type": "Sequence", "decoders": JOIN}}, "decoder"),
        ({"decoder": {"type": "WordPiece"}}, "decoder"),
        ({"post_processor": {"type": "Unheard"}}, "post_processor"),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"model": {"ignore_merges": True}}, "ignore_merges"),
        ({"model": {"unk_token": "<nope>"}}, "unk_token"),
        ({"model": {"merges": [["a", "q\u2581"]]}}, "merge 0"),
        ({"model": {"vocab": {"a": 7}}}, "id 7"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    changed = document(OLD)
    if "vocab" in change.get("model", {}):
        changed["added_tokens"] = []
        change["model"]["unk_token"] = None
    for key, value in change.items():
        changed[key] = changed[key] | value if key == "model" else value
    (tmp_path / "t.json").write_text(json.dumps(changed))
    with pytest.raises(TokenizerError, match=named):
        tokenizers.load(tmp_path / "t.json")


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("symbols", [["\t", "1", "q"], [MARK, "t"], ["a", "\n", "漢"]])
def test_user_defined_characters_become_a_tokenizer_json(symbols: list[str], fallback: bool, tmp_path: Path) -> None:
    """With the space before every text; more than one character is refused then."""
    sentencepiece = pytest.importorskip("sentencepiece")

    def train(name: str, symbols: list[str]) -> SentencePieceTokenizer:
        with (tmp_path / name).open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["the theme of the thesis  aa 12"] * 20), model_writer=file, model_type="bpe",
                minloglevel=2, vocab_size=330, byte_fallback=fallback, hard_vocab_limit=False,
                normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=symbols,
            )  # fmt: skip
        found = tokenizers.load(tmp_path / name)
        assert isinstance(found, SentencePieceTokenizer)
        return found

    tokenizers.save(train("m.model", symbols), tmp_path / "tokenizer.json", "huggingface")
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = tokenizers.load(tmp_path / "tokenizer.json")
    generator = random.Random(4)
    parts = [*symbols, "the", " ", "t", "a", "  ", "é", "th", "e", "2"]
    for _ in range(300):
        text = "".join(generator.choices(parts, k=generator.randrange(12)))
        expected = peer.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == expected
        assert again.encode(text).tolist() == expected
    with pytest.raises(TokenizerError, match="user-defined piece"):
        tokenizers.save(train("two.model", [*symbols, "<tool>"]), tmp_path / "two.json", "huggingface")

"""Random tokenizer.json files of WordPiece and of SentencePiece's kind, with added tokens of every kind: same ids as
Hugging Face's tokenizers."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import tokenizers

huggingface = pytest.importorskip("tokenizers")

MARK = "\u2581"
NAMES = ("single_word", "lstrip", "rstrip", "normalized", "special")
SPELLINGS = [
    *[
        "THE",
        "the",
        "Covid",
        "É",
        "é",
        "e\u0301",
        "你",
        "你好",
        " ",
        "  ",
        "\n",
        " the",
        "the ",
        "ab ab",
        "##a",
        "a",
        "12",
    ],
    *["12", "<tool>", "[mask]", "?!", "İ", "\u00a0", MARK, f"{MARK}the", "naïve", "<e", "word-", "\u212b"],
]
PIECES = [
    *SPELLINGS,
    "COVID",
    "covid",
    "x",
    "b",
    "\t",
    "\u200b",
    "\u0301",
    "\x00",
    "🙂",
    "好",
    "[UNK]",
    "<s>",
    "!",
    "-",
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=3, max_size=3)
FLAGS = st.fixed_dictionaries({name: st.booleans() for name in NAMES})
COVID = {"Covid": dict.fromkeys(NAMES, False) | {"normalized": True}}
BLANK = {" ": dict.fromkeys(NAMES, False) | {"lstrip": True, "rstrip": True}}
STRIPS = {"?!": dict.fromkeys(NAMES, False) | {"normalized": True, "lstrip": True, "rstrip": True}}

LETTERS = list("abcdehotvxw123é你好!?-[]<>")
METASPACES = [(scheme, split) for scheme in ("never", "first", "always") for split in (False, True)]


def document(vocab: list[str], specials: list[str], added: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    ids = {token: i for i, token in enumerate(vocab)}
    new = [spelling for spelling in added if spelling not in ids]
    plain = dict.fromkeys(NAMES, False)
    tokens = [{"id": ids[name], "content": name, **plain, "special": True} for name in specials]
    tokens += [
        {"id": ids[name] if name in ids else len(vocab) + new.index(name), "content": name, **flags}
        for name, flags in added.items()
    ]
    parts["model"]["vocab"] = ids
    tokens.sort(key=lambda token: token["id"])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "post_processor": None,
    } | parts


def normal_form(text: str) -> str:
    """A text without case and accents, with one kind of white space."""
    letters = [c for c in unicodedata.normalize("NFD", text).lower() if not unicodedata.combining(c)]
    return "".join(" " if c.isspace() or c == MARK else c for c in letters)


def unmistakable(added: dict[str, Any]) -> dict[str, Any]:
    """Of tokens with one normal form tokenizers finds another one at each start: keep one of them."""
    return {name: added[name] for name in {normal_form(name): name for name in sorted(added)}.values()}


def assert_same(document: dict[str, Any], texts: list[str], folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = tokenizers.load(path)
    tokenizers.save(mine, folder / "own.json")
    again = tokenizers.load(folder / "own.json")
    other = huggingface.Tokenizer.from_file(str(path))
    for text in texts:
        try:
            expected = other.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a token that begins within the white space of another
                raise
            continue
        assert mine.encode(text, allowed_special="all").tolist() == expected
        assert again.encode(text, allowed_special="all").tolist() == expected


ADDED = st.dictionaries(st.sampled_from(SPELLINGS), FLAGS, max_size=6).map(unmistakable)


@settings(max_examples=150, deadline=None)
@given(ADDED, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, True, False]), TEXTS)
@example(COVID, True, True, True, None, ["COVID, covid and Covid", "c\u0301ovid", "Co\x00vid"])
@example(BLANK, True, True, True, None, ["a   b", "   ", "a \t\n"])
def test_wordpiece(
    tmp_path_factory: Any, added: Any, low: bool, clean: bool, chinese: bool, accents: bool | None, texts: list[str]
) -> None:
    vocab = ["[UNK]", "[CLS]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##he"]
    normalizer = {"clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": low}
    parts = {
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }
    assert_same(document(vocab, ["[UNK]", "[CLS]"], added, parts), texts, tmp_path_factory.mktemp("t"))


@settings(max_examples=150, deadline=None)
@given(ADDED, st.sampled_from(["prepend", "replace", *METASPACES]), st.booleans(), TEXTS)
@example(STRIPS, "prepend", True, ["a ?!  b", "?! ?!", " ?!"])
@example(STRIPS, ("never", False), True, ["a ?!  b", f"a{MARK}?!{MARK}b"])
@example(BLANK, "replace", True, ["a   b", "   "])
def test_sentencepiece(tmp_path_factory: Any, added: Any, form: Any, fallback: bool, texts: list[str]) -> None:
    if isinstance(form, tuple) and form[0] == "never":  # there all are looked for at once here
        added = {name: {**flags, "normalized": True} for name, flags in added.items()}
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    prepended = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, replaced]}
    merges = [["t", "h"], ["th", "e"], [MARK, "the"], [MARK, MARK], ["你", "好"], [MARK, "a"]]
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    vocab = ["<unk>", "<s>", *byte_names, MARK, *LETTERS, *("".join(merge) for merge in merges)]
    metaspace = None
    if isinstance(form, tuple):
        metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": form[0], "split": form[1]}
    parts = {
        "normalizer": {"prepend": prepended, "replace": replaced}.get(form) if isinstance(form, str) else None,
        "pre_tokenizer": metaspace,
        "decoder": None,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": fallback, "merges": merges},
    }
    assert_same(document(vocab, ["<unk>", "<s>"], added, parts), texts, tmp_path_factory.mktemp("t"))

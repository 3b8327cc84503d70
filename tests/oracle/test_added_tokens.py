"""Added tokens that are tokens of the model too, and odd lists of them: same ids and text as Hugging Face's tokenizers.

A byte-level model spells bytes as letters: there "ä" is the byte 0xE4, and an added token "ä" with the same id is found
in a text as well.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.tokenizers import Tokenizer
from gollm.tokenizers.alphabet import CHARACTER_OF_BYTE, to_alphabet

huggingface = pytest.importorskip("tokenizers")

LETTERS = [*CHARACTER_OF_BYTE.values()]
MERGES = [
    *[("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "¤"), ("a", "b"), ("ab", "a"), ("b", "a"), ("t", "h"), ("th", "e")],
    *[("ä", "½"), ("ä½", "ł"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("~", "~")],
]
MADE = list(dict.fromkeys(left + right for left, right in MERGES))
SPELLINGS = [
    *MADE,
    "ä",
    "é",
    "Ġ",
    "~",
    "Ã",
    "½",
    "a",
    "漢",
    "naive",
    " ",
    "<s>",
    "<|end|>",
    "ab ab",
    "\n",
    "Ĉ",
    "e\u0301",
]
TEXTS = st.lists(
    st.sampled_from([*SPELLINGS, "你好", "the", " the", "  ", "ABA", "é", "🙂", "x", "\t", "tha", "ba", "\u0301"]),
    max_size=14,
).map("".join)
NAMES = ("single_word", "lstrip", "rstrip", "normalized", "special")
FLAGS = st.fixed_dictionaries({name: st.booleans() for name in NAMES})
ADDED = st.lists(st.tuples(st.sampled_from(SPELLINGS), st.integers(0, 300), FLAGS), max_size=6)


def byte_level(added: list[Any], merges: list[Any], **change: Any) -> dict[str, Any]:
    vocab = {token: i for i, token in enumerate([*LETTERS, *MADE])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocab.get(content, index), "content": content, **dict.fromkeys(NAMES, False), **flags}
            for content, index, flags in added
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(merge) for merge in merges], **change},
    }


def read(document: dict[str, Any], folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizers.load(path)


def assert_same(mine: Tokenizer, other: Any, text: str) -> None:
    expected = other.encode(text, add_special_tokens=False).ids
    assert mine.encode(text, allowed_special="all").tolist() == expected
    others = {character for token in mine.added_tokens if not token.special for character in token.spelling}
    if any(special in text and others & set(special) for special in mine.special_tokens):
        return  # in tokenizers a special token that is not to be recognised still hides others that overlap with it
    other.encode_special_tokens = True
    assert mine.encode(text).tolist() == other.encode(text, add_special_tokens=False).ids
    other.encode_special_tokens = False


def assert_everywhere_the_same(document: dict[str, Any], texts: list[str], folder: Path) -> None:
    mine, other = read(document, folder), huggingface.Tokenizer.from_str(json.dumps(document))
    again = tokenizers.from_state(*mine.to_state())
    tokenizers.save(mine, folder / "own.json")
    tokenizers.save(mine, folder / "out.json", "huggingface")
    ours = (mine, again, tokenizers.load(folder / "own.json"), tokenizers.load(folder / "out.json"))
    written = huggingface.Tokenizer.from_file(str(folder / "out.json"))
    for text in texts:
        for one in ours:
            assert_same(one, other, text)
        assert written.encode(text).ids == other.encode(text).ids


@settings(max_examples=100, deadline=None)
@given(ADDED, st.permutations(MERGES), st.lists(st.sampled_from(MERGES), max_size=3), st.booleans(), st.data())
def test_byte_level(
    tmp_path_factory: Any, added: list[Any], merges: list[Any], twice: list[Any], ignore: bool, data: Any
) -> None:
    """Merges in any order, some of them twice."""
    document = byte_level(added, [*merges, *twice], ignore_merges=ignore)
    texts = [data.draw(TEXTS) for _ in range(4)]
    assert_everywhere_the_same(document, texts, tmp_path_factory.mktemp("t"))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("spelling", ["ä", "é", "Ġ", "~", "Ġthe", "Ã¤"])
def test_a_letter_that_stands_for_a_byte(spelling: str, special: bool, tmp_path: Path) -> None:
    flags = {"special": special, "normalized": not special}
    document = byte_level([(spelling, 0, flags)], MERGES)
    texts = ["你好", f"{spelling}你好 the {spelling}", "naïve é ä"]
    assert_everywhere_the_same(document, texts, tmp_path)
    mine = read(document, tmp_path)
    other = huggingface.Tokenizer.from_str(json.dumps(document))
    for text in texts:
        ids = mine.encode(text, allowed_special="all")
        assert mine.decode(ids) == other.decode(ids.tolist(), skip_special_tokens=False)
        assert mine.decode(mine.encode(text, allowed_special="none")) == text or not special


def test_every_letter_at_once(tmp_path: Path) -> None:
    document = byte_level([(letter, 0, {"special": True}) for letter in LETTERS], MERGES)
    text = "你好 the ab\n" + "".join(LETTERS)
    assert_everywhere_the_same(document, [text], tmp_path)
    assert read(document, tmp_path).decode(read(document, tmp_path).encode(text)) == text
    assert to_alphabet("ä".encode()) == "Ã¤"


def test_a_written_file_forges_no_added_token(tmp_path: Path) -> None:
    """With ignore_merges a word that is in the vocabulary is that token: added tokens are in their own list only."""
    text = "the user sells sea shells USER user " * 50
    plain = tokenizers.BPETokenizer.train(text, 300, special_tokens=["<|end|>", "USERX"], pattern="llama3")
    header, arrays = plain.to_state()
    mine = tokenizers.from_state({**header, "ignore_merges": True}, arrays)
    tokenizers.save(mine, tmp_path / "tokenizer.json", "huggingface")
    again = tokenizers.load(tmp_path / "tokenizer.json")
    other = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode("USERX the").tolist() == mine.encode("USERX the").tolist()
    assert mine.special_tokens["USERX"] not in again.encode("USERX the")
    assert again.encode("USERX <|end|>", allowed_special="all").tolist() == other.encode("USERX <|end|>").ids
    assert again.special_tokens == mine.special_tokens and other.get_vocab_size() == mine.vocab_size

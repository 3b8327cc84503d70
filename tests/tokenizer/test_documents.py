"""Documents that come in pieces: their ids are those of the whole, for every kind of tokenizer, wherever pieces end."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.tokenizers import BPETokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer, WordTokenizer
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.documents import recut
from gollm.tokenizers.patterns import PATTERNS
from gollm.tokenizers.sentencepiece import PieceType
from gollm.tokenizers.vocabulary import Vocabulary

CORPUS = "the cat and the dog, it's 123 cats: naïve e\u0301 \u0301a\t\tx\n\n  y  z\u3000w\r\n 漢字 [tok] a [tok]b" * 3
ATOMS = ["the cat", " and", " ", "   ", "\n", "\t", "a", "e\u0301", "\u0301", "\u3000", "漢字", "'s", "12", "[tok]",
         "\u2581", "X Y", " b", "\r\n", "<s>", "ﬁ"]  # fmt: skip
DOCUMENTS = st.lists(
    st.tuples(st.sampled_from([*ATOMS, "word and word "]), st.sampled_from([1, 1, 2, 40, 200])), max_size=30
).map(lambda parts: "".join(atom * n for atom, n in parts))


def with_tokens(tokenizer: BPETokenizer, **rules: bool) -> BPETokenizer:
    """The tokenizer with added tokens that are found in every text."""
    spellings = ["[tok]", "t c", " and", "é"]
    first = tokenizer.vocab_size
    tokens = Vocabulary.of([*tokenizer.vocabulary, *(token.encode() for token in spellings)])
    added = [AddedToken(token, first + i, special=False, **rules) for i, token in enumerate(spellings)]
    return BPETokenizer(
        tokens, tokenizer.merges, {}, tokenizer.pattern, normalizer="NFC", add_prefix_space=True, added_tokens=added
    )


def sentencepiece(**settings: object) -> SentencePieceTokenizer:
    joined = [" t", "he", " the", "at", " c", " cat", "  ", " a", *settings.pop("pieces", [])]  # type: ignore[misc]
    characters = sorted(set(CORPUS + "XY<s>[]") - {"漢"})
    tokens = ["<unk>", *characters, *joined, "[tok]"]
    types = [PieceType.UNKNOWN, *[PieceType.NORMAL] * (len(tokens) - 2), PieceType.USER_DEFINED]
    scores = -np.arange(len(tokens), dtype=np.float32)
    return SentencePieceTokenizer(
        Vocabulary.of([token.encode() for token in tokens]), np.array(types, np.uint8), scores=scores, **settings
    )


def tokenizers() -> dict[str, Tokenizer]:
    made: dict[str, Tokenizer] = {
        "character": CharacterTokenizer.train(CORPUS, unknown_token="<unk>"),
        "word": WordTokenizer.train(CORPUS, 40),
        "wordpiece": WordPieceTokenizer.train(CORPUS, 60),
        "wordpiece, cased": WordPieceTokenizer.train(CORPUS, 60, lowercase=False),
    }
    for name in [*PATTERNS, r"\s+|\S+\s", ("llama3", r"[aeiou]+|\s")]:
        plain = BPETokenizer.train(CORPUS, 300, pattern=name)
        made[f"bpe {name}"] = plain
        for rules in (
            {"add_prefix_space": True},
            {"normalizer": "NFC"},
            {"normalizer": "NFC", "add_prefix_space": True},
        ):
            made[f"bpe {name} {rules}"] = BPETokenizer(plain.vocabulary, plain.merges, {}, plain.pattern, **rules)
    for flags in ("lstrip", "rstrip", "single_word", "normalized"):
        made[f"bpe with added tokens, {flags}"] = with_tokens(BPETokenizer.train(CORPUS, 300), **{flags: True})
    for prefix, shorten, split in itertools.product(
        ("always", "missing", "first", "never"), (False, True), (False, True)
    ):
        rules = {"dummy_prefix": prefix, "remove_extra_spaces": shorten, "split_spaces": split}
        made[f"sentencepiece {rules}"] = sentencepiece(**rules)
    made["sentencepiece across words"] = sentencepiece(pieces=["e ", "e c"])
    return made


TOKENIZERS = tokenizers()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(DOCUMENTS, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_ids_of_pieces_are_those_of_the_document(name: str, documents: list[str], generator: random.Random) -> None:
    tokenizer = TOKENIZERS[name]
    pieces = []
    for document in filter(None, documents):
        size = generator.choice([1, 7, 60, 300])
        pieces += [(document[i : i + size], i == 0) for i in range(0, len(document), size)]
    encoded: list[list[int]] = []
    for ids, first in tokenizer.encode_pieces(pieces):
        if first:
            encoded.append([])
        encoded[-1] += ids.tolist()
    assert encoded == [tokenizer.encode(document).tolist() for document in documents if document]


HELD = [name for name in TOKENIZERS if "\\s" in name or "across" in name]
HELD += [name for name in TOKENIZERS if "'remove_extra_spaces': True" in name and "always" not in name]


@pytest.mark.parametrize("name", sorted(TOKENIZERS.keys() - HELD))
def test_a_long_document_is_cut(name: str) -> None:
    document = "the dog, it's a cow; " * 3000
    tokenizer = TOKENIZERS[name]
    parts = list(recut([(document[i : i + 5000], i == 0) for i in range(0, len(document), 5000)], tokenizer._safe_cut))
    assert "".join(text for text, _ in parts) == document
    assert [first for _, first in parts] == [True] + [False] * (len(parts) - 1)
    assert max(len(text) for text, _ in parts) < 11_000

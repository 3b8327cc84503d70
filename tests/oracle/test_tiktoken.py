"""The patterns of cl100k, o200k, LLaMA-3 and Qwen-2, and rank files: same ids as tiktoken.

tiktoken's own vocabularies would have to be downloaded: here tokenizers are trained, written as rank files, and opened
by tiktoken with the regular expressions that it has for its encodings.
"""

from __future__ import annotations

import os
import random
import re
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.errors import TokenizerError
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.patterns import REGEXES

tiktoken = pytest.importorskip("tiktoken")
tiktoken_load = pytest.importorskip("tiktoken.load")
openai = pytest.importorskip("tiktoken_ext.openai_public")

os.environ["TIKTOKEN_CACHE_DIR"] = ""  # it would remember a file by its path

SOURCES = sorted((Path(__file__).resolve().parents[2] / "python/gollm/tokenizers").glob("*.py"))
HORRORS = [
    *" \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2000\u200b\u2028\u2029\u202f\u205f\u3000\ufeff",
    *["'s", "'t", "'RE", "'vE", "'m", "'Ll", "'D", "'ſ", "’s", "'", "''", "'r", "'l", "ſ", "K"],
    *["a", "Z", "é", "ß", "ǆ", "ǅ", "ʰ", "ª", "漢", "が", "한", "ا", "किं", "\u0301", "\u0345", "\u20dd", "\U0001d400"],
    *["0", "12345", "²", "½", "Ⅷ", "٣", "𝟘", "①", "〇", "!", "_", "/", "//", "€", "🙂", "👩\u200d👩\u200d👧", "🇩🇪"],
    *["\x00", "\x7f", "\ue000", "\ufffd", "\uffff", "\U0010ffff", "\U000e0001", " the", "HTMLParser", "it's", "IT'S"],
    *["x" * 20, " " * 70, "=" * 70, "\u0301" * 9, "\n" * 5],
]
CORPUS = [*(path.read_text() for path in SOURCES), "".join(HORRORS) * 3]
TEXT = st.one_of(
    st.lists(st.sampled_from(HORRORS), max_size=25).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text("aB1 '\n!/", max_size=60),
)
KINDS = ["gpt2", "cl100k", "o200k", "llama3", "qwen2", "smollm"]


@cache
def expressions() -> dict[str, str]:
    """As the original has them where it has them: tiktoken's registry would download the vocabularies beside them."""
    downloads = openai.load_tiktoken_bpe, openai.data_gym_to_mergeable_bpe_ranks
    openai.load_tiktoken_bpe = openai.data_gym_to_mergeable_bpe_ranks = lambda *_args, **_named: {}
    try:
        originals = {"gpt2": openai.gpt2(), "cl100k": openai.cl100k_base(), "o200k": openai.o200k_base()}
    finally:
        openai.load_tiktoken_bpe, openai.data_gym_to_mergeable_bpe_ranks = downloads
    return REGEXES | {name: encoding["pat_str"] for name, encoding in originals.items()}


@cache
def trained(kind: str) -> BPETokenizer:
    return BPETokenizer.train(CORPUS, 1500, pattern=kind, special_tokens=["<|end|>"])


def opened(path: Path, kind: str, special_tokens: dict[str, int]) -> Any:
    return tiktoken.Encoding(
        kind,
        pat_str=expressions().get(kind, kind),
        mergeable_ranks=tiktoken_load.load_tiktoken_bpe(str(path)),
        special_tokens=special_tokens,
    )


@cache
def both(kind: str) -> tuple[BPETokenizer, BPETokenizer, Any]:
    """(trained here, read back from the rank file, opened by tiktoken)"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trained.tiktoken"
        tokenizers.save(trained(kind), path, "tiktoken")
        again = tokenizers.load(path, pattern=kind, special_tokens=["<|end|>"])
        assert isinstance(again, BPETokenizer)
        return trained(kind), again, opened(path, kind, trained(kind).special_tokens)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_ids(kind: str, text: str) -> None:
    mine, again, theirs = both(kind)
    ids = mine.encode(text).tolist()
    assert ids == theirs.encode_ordinary(text)
    assert ids == again.encode(text).tolist()
    assert mine.decode_bytes(ids) == theirs.decode_bytes(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_long_texts(kind: str) -> None:
    mine, again, theirs = both(kind)
    generator = random.Random(kind)
    texts = [*CORPUS, " " * 20_000, "a" * 5000, "é漢" * 2000, "".join(generator.choices(HORRORS, k=5000)), "ab<|end|>"]
    texts += ["".join(generator.choices("abcdefghit", k=30_000)), "self" * 5000]
    for text in texts:
        expected = theirs.encode_ordinary(text)
        assert mine.encode(text, threads=2).tolist() == expected
        assert again.encode(text).tolist() == expected
    text = "a<|end|> b"
    assert again.encode(text, allowed_special="all").tolist() == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        *((kind, 0x3400) for kind in KINDS),
        *(pytest.param(kind, 0x110000, marks=pytest.mark.slow) for kind in ("cl100k", "o200k", "smollm")),
    ],
)
def test_every_character_has_their_class(kind: str, n: int) -> None:
    """Around each code point stand letters of either case, a number and a sign: its class shows in the ids."""
    mine, _, theirs = both(kind)
    characters = [chr(c) for c in range(n) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 50_000):
        text = "".join(f"a{c}b{c}B 1{c}11 {c}!{c}\n" for c in characters[start : start + 50_000])
        assert mine.encode(text).tolist() == theirs.encode_ordinary(text)


PIECES = st.lists(
    st.binary(min_size=2, max_size=6).map(lambda b: bytes(97 + x % 3 for x in b)), unique=True, max_size=25
)


@settings(max_examples=300, deadline=None)
@given(PIECES, st.integers(0, 2**32), st.text("abc ", max_size=60))
def test_any_ranks(tmp_path_factory: pytest.TempPathFactory, tokens: list[bytes], seed: int, text: str) -> None:
    """Vocabularies that no training makes: tokens that no pair makes, ranks in any order, several ways to a token."""
    ordered = [bytes([byte]) for byte in range(256)] + tokens
    random.Random(seed).shuffle(ordered)
    ranks = {token: 2 * i for i, token in enumerate(ordered)}  # with gaps between the ids
    theirs = tiktoken.Encoding("any", pat_str=REGEXES["gpt2"], mergeable_ranks=ranks, special_tokens={"<s>": 999})
    path = tmp_path_factory.getbasetemp() / "any.tiktoken"
    path.write_text("".join(f"{b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    mine = tokenizers.load(path, pattern="gpt2", special_tokens={"<s>": 999})
    assert mine.encode(text).tolist() == theirs.encode_ordinary(text)
    assert mine.special_tokens == {"<s>": 999}
    tokenizers.save(mine, path, "tiktoken")
    assert tiktoken_load.load_tiktoken_bpe(str(path)) == ranks
    again = tokenizers.from_state(*mine.to_state())
    assert again.encode(text).tolist() == theirs.encode_ordinary(text)


@settings(max_examples=300, deadline=None)
@given(st.text("abab c", min_size=1, max_size=80), st.integers(0, 20), st.data())
def test_what_is_exported_has_the_same_ids(
    tmp_path_factory: pytest.TempPathFactory, corpus: str, dropped: int, data: st.DataObject
) -> None:
    """A trained tokenizer whose merges are changed is refused, or has the same ids there."""
    tokenizer = BPETokenizer.train(corpus, 280, min_frequency=1)
    header, arrays = tokenizer.to_state()
    rows = data.draw(st.permutations(arrays["merges"].tolist())) if dropped % 3 == 0 else arrays["merges"].tolist()
    if rows and dropped % 2:
        del rows[dropped % len(rows)]
    merges = np.array(rows, np.int32).reshape(-1, 3)
    changed = tokenizers.from_state(
        header | ({"ignore_merges": True} if dropped > 10 else {}), arrays | {"merges": merges}
    )
    assert isinstance(changed, BPETokenizer)
    path = tmp_path_factory.getbasetemp() / "changed.tiktoken"
    try:
        tokenizers.save(changed, path, "tiktoken")
    except TokenizerError as error:
        assert re.search("not in the order of its ids|made by no merges", str(error))
        return
    theirs = opened(path, "gpt2", {})
    text = data.draw(st.text("abab c", max_size=60))
    assert changed.encode(text).tolist() == theirs.encode_ordinary(text)

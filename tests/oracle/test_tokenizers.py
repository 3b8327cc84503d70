"""GPT-2's ids and merges against tiktoken and Hugging Face's tokenizers, both built from files, without a network.

Known differences between the two, where gollm's answer is stated in docs/tokenizers.md:
- a lone surrogate: tiktoken puts U+FFFD in its place, tokenizers and gollm refuse it;
- special tokens in text: tokenizers recognises them, tiktoken refuses them, gollm takes them as text unless told.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import _native, tokenizers
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.alphabet import from_alphabet

tiktoken = pytest.importorskip("tiktoken")
huggingface = pytest.importorskip("tokenizers")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
VOCAB, MERGES = DATA / "gpt2-encoder.json", DATA / "gpt2-vocab.bpe"
needs_gpt2 = pytest.mark.skipif(not VOCAB.exists() or not MERGES.exists(), reason="GPT-2's files are not here")

# As tiktoken has it for r50k_base; its registry would download the vocabulary.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END = "<|endoftext|>"


@cache
def gpt2() -> BPETokenizer:
    tokenizer = tokenizers.load(VOCAB)
    assert isinstance(tokenizer, BPETokenizer)
    return tokenizer


@cache
def gpt2_tiktoken() -> Any:
    vocab = json.loads(VOCAB.read_text())
    end = vocab.pop(END)
    ranks = {from_alphabet(token): i for token, i in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: end})


@cache
def gpt2_huggingface() -> Any:
    tokenizer = huggingface.Tokenizer(huggingface.models.BPE.from_file(str(VOCAB), str(MERGES)))
    tokenizer.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = huggingface.decoders.ByteLevel()
    return tokenizer


def assert_all_agree(text: str) -> None:
    ids = gpt2().encode(text).tolist()
    assert ids == gpt2_tiktoken().encode_ordinary(text)
    assert ids == gpt2_huggingface().encode(text).ids
    assert gpt2().decode_bytes(ids) == text.encode()


HORRORS = st.sampled_from(
    [
        *" \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
        *["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "’s", "'", "'ſ", "''", "'r", "'l", "'v"],
        *"aZéßǆʰª漢が한اकि\u0301\u0345\u20dd\U0001d400",
        *["0", "9", "²", "½", "Ⅷ", "٣", "𝟘", "①", "〇", "\U0001f100", "\U00010107"],
        *["!", "_", "-", "€", "†", "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "\x00", "\x7f", "\ue000", "\ufffd", "\uffff"],
        *["\U0010ffff", "\ud7ff", "\ue001", "\U00010000", "\U000e0001", "x" * 17, " " * 16, "ab" * 40, "=" * 70],
    ]
)
TEXT = st.one_of(
    st.lists(HORRORS, max_size=40).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text("ab '\n", max_size=120),
)


@needs_gpt2
@settings(max_examples=1500, deadline=None)
@given(TEXT)
@example("")
@example("it's  we're I'll\n\n  he'd  ")
@example("\n \n  \n")
def test_gpt2_ids(text: str) -> None:
    assert_all_agree(text)


@needs_gpt2
@pytest.mark.parametrize(
    "name", ["tinyshakespeare.txt", "instruction-data.json", "gpt2-encoder.json", "gpt2-vocab.bpe"]
)
def test_gpt2_ids_of_files(name: str) -> None:
    """The last two are lists of odd words, many not ASCII."""
    text = (DATA / name).read_text()[:400_000]
    assert_all_agree(text)


@needs_gpt2
def test_gpt2_ids_of_every_token() -> None:
    """Whatever a token's text is encoded to, it is the same everywhere."""
    texts = [token.decode("utf-8", "replace") for token in gpt2().vocabulary]
    expected = gpt2_tiktoken().encode_ordinary_batch(texts)
    assert [ids.tolist() for ids in gpt2().encode_batch(texts)] == expected


@needs_gpt2
def test_every_character_has_their_class() -> None:
    """Each code point between a letter and a number, before a letter behind a space, and behind a sign: its class
    shows.
    """
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 50_000):
        chunk = characters[start : start + 50_000]
        text = "".join(f"a{c}1 {c}x!{c}\n" for c in chunk)
        assert gpt2().encode(text).tolist() == gpt2_tiktoken().encode_ordinary(text)
    pieces = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for start in range(0, len(characters), 8_000):
        text = "".join(f"a{c}1 {c}x!{c}\n" for c in characters[start : start + 8_000 : 7])
        expected = [text[a:b] for _, (a, b) in pieces.pre_tokenize_str(text)]
        assert _native.split_text(text, "gpt2") == expected


@needs_gpt2
@pytest.mark.parametrize("alphabet", ["a", "ab", " ", "the", "=-", "漢字", "\u0301a"])
def test_long_pieces(alphabet: str) -> None:
    generator = random.Random(alphabet)
    for length in (15, 16, 47, 48, 49, 62, 63, 200, 1000):
        assert_all_agree("".join(generator.choice(alphabet) for _ in range(length)))


@needs_gpt2
def test_special_tokens() -> None:
    text = f"one{END} two{END}{END}<|endoftext"
    ids = gpt2().encode(text, allowed_special="all").tolist()
    assert ids == gpt2_tiktoken().encode(text, allowed_special="all")
    assert gpt2().encode(text).tolist() == gpt2_tiktoken().encode_ordinary(text)
    with_special = huggingface.Tokenizer.from_str(gpt2_huggingface().to_str())
    with_special.add_special_tokens([END])
    assert ids == with_special.encode(text).ids


@needs_gpt2
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50256), max_size=30))
def test_decoding(ids: list[int]) -> None:
    assert gpt2().decode_bytes(ids) == gpt2_tiktoken().decode_bytes(ids)
    assert gpt2().decode(ids) == gpt2_tiktoken().decode(ids)


@needs_gpt2
def test_export_of_gpt2_loads_in_huggingface(tmp_path: Path) -> None:
    tokenizers.save(gpt2(), tmp_path / "tokenizer.json", "huggingface")
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = (DATA / "tinyshakespeare.txt").read_text()[:50_000] + f"{END}é漢 \n"
    ids = gpt2().encode(text, allowed_special="all").tolist()
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text
    assert theirs.token_to_id(END) == 50256


def trained_by_huggingface(
    texts: list[str], vocab_size: int, min_frequency: int = 0, special: tuple[str, ...] = ()
) -> Any:
    tokenizer = huggingface.Tokenizer(huggingface.models.BPE())
    tokenizer.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = huggingface.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def merges_of(theirs: Any) -> list[tuple[bytes, bytes]]:
    merges = json.loads(theirs.to_str())["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(from_alphabet(left), from_alphabet(right)) for left, right in pairs]


def merges_of_ours(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    return [(tokenizer.vocabulary[left], tokenizer.vocabulary[right]) for left, right, _ in tokenizer.merges.tolist()]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("aab \n'sé漢1²!\u00a0"), max_size=300), min_size=1, max_size=3).filter(any),
    st.integers(256, 400),
    st.integers(1, 3),
)
def test_training_finds_their_merges(texts: list[str], vocab_size: int, min_frequency: int) -> None:
    theirs = trained_by_huggingface(texts, vocab_size, min_frequency)
    ours = BPETokenizer.train(texts, vocab_size, min_frequency=min_frequency)
    assert merges_of_ours(ours) == merges_of(theirs)


def test_training_on_source_code_finds_their_merges() -> None:
    texts = [path.read_text() for path in sorted((Path(__file__).resolve().parents[2] / "python").rglob("*.py"))]
    theirs = trained_by_huggingface(texts, 4000)
    ours = BPETokenizer.train(texts, 4000, min_frequency=1)
    assert len(ours.merges) == 4000 - 256
    assert merges_of_ours(ours) == merges_of(theirs)


def test_their_trained_tokenizer_loads_here_and_ours_there(tmp_path: Path) -> None:
    text = Path(__file__).read_text()
    theirs = trained_by_huggingface([text], 600, special=("<|endoftext|>", "<pad>"))  # special tokens get the first ids
    theirs.decoder = huggingface.decoders.ByteLevel()
    theirs.save(str(tmp_path / "theirs.json"))
    imported = tokenizers.load(tmp_path / "theirs.json")
    assert imported.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    sample = text[:3000] + "<pad>漢 é\n\n  <|endoftext|>x"
    assert imported.encode(sample, allowed_special="all").tolist() == theirs.encode(sample).ids

    ours = BPETokenizer.train(text, 600, special_tokens=["<|endoftext|>", "<pad>"])
    tokenizers.save(ours, tmp_path / "ours.json", "huggingface")
    exported = huggingface.Tokenizer.from_file(str(tmp_path / "ours.json"))
    assert exported.encode(sample).ids == ours.encode(sample, allowed_special="all").tolist()
    tokenizers.save(ours, tmp_path, "gpt2")
    pair = huggingface.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert pair.encode("plain text, é漢").ids == ours.encode("plain text, é漢").tolist()

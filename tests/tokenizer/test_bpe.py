"""Byte-pair encoding: merging against the definition, training against a plain restatement, odd input."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm import _native
from gollm.data import open_source
from gollm.errors import DataError, TokenizerError
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.alphabet import CHARACTER_OF_BYTE

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CROWDED = st.text(st.sampled_from("aab \n'sé漢1²!\u00a0\u3000"), max_size=300)


def merge_by_definition(tokenizer: BPETokenizer, piece: bytes) -> list[int]:
    """Joins the earliest merge's leftmost pair until none is left, quadratic and plain."""
    ranks = {(left, right): (rank, result) for rank, (left, right, result) in enumerate(tokenizer.merges.tolist())}
    ids = list(piece)
    while True:
        found = min(
            ((ranks[pair][0], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks),
            default=None,
        )
        if found is None:
            return ids
        i = found[1]
        ids[i : i + 2] = [ranks[ids[i], ids[i + 1]][1]]


def train_by_definition(texts: list[str], n_merges: int, min_frequency: int) -> list[tuple[bytes, bytes]]:
    """Counts all pairs anew before each merge; ties go to the smaller pair, bytes in the order of GPT-2's alphabet."""
    order = {bytes([byte]): ord(character) for byte, character in CHARACTER_OF_BYTE.items()}
    words = Counter(tuple(bytes([b]) for b in p.encode()) for text in texts for p in _native.split_text(text, "gpt2"))
    made: list[tuple[bytes, bytes]] = []
    while len(made) < n_merges:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] += count
        counts = Counter({pair: count for pair, count in counts.items() if pair not in made})
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], order[pair[0]], order[pair[1]]))
        if counts[best] < min_frequency:
            break
        made.append(best)
        order.setdefault(best[0] + best[1], 0x110000 + len(made))
        merged: Counter[tuple[bytes, ...]] = Counter()
        for word, count in words.items():
            parts, i = [], 0
            while i < len(word):
                joined = word[i : i + 2] == best
                parts.append(word[i] + word[i + 1] if joined else word[i])
                i += 1 + joined
            merged[tuple(parts)] += count
        words = merged
    return made


def spelled_merges(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    return [(tokenizer.vocabulary[left], tokenizer.vocabulary[right]) for left, right, _ in tokenizer.merges.tolist()]


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    text = Path(__file__).read_text() + "".join(map(chr, range(0xA0, 0x300))) + "漢字かな交じり文" * 3 + " \n" * 50
    return BPETokenizer.train(text, 700, special_tokens=["<|endoftext|>", "<|end|>", "<|endof"])


def test_the_example_of_minbpe() -> None:
    tokenizer = BPETokenizer.train("aaabdaaabac", 259)
    assert tokenizer.encode("aaabdaaabac").tolist() == [258, 100, 258, 97, 99]
    assert tokenizer.merges.tolist() == [[97, 97, 256], [97, 98, 257], [256, 257, 258]]


@given(st.lists(CROWDED, min_size=1, max_size=3).filter(any), st.integers(0, 60), st.integers(1, 3))
def test_training_is_what_it_says(texts: list[str], n_merges: int, min_frequency: int) -> None:
    tokenizer = BPETokenizer.train(texts, 256 + n_merges, min_frequency=min_frequency)
    expected = train_by_definition(texts, len(tokenizer.merges) + 1, min_frequency)
    assert spelled_merges(tokenizer) == expected[: len(tokenizer.merges)]
    assert tokenizer.vocab_size == 256 + n_merges or len(expected) == len(tokenizer.merges)


@given(st.one_of(TEXT, CROWDED))
def test_encoding_is_what_it_says(trained: BPETokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [
        i for p in _native.split_text(text, "gpt2") for i in merge_by_definition(trained, p.encode())
    ]
    assert trained.encode(text).tolist() == ids.tolist()  # now from the caches
    assert trained.decode_bytes(ids) == text.encode()
    assert trained.decode(ids) == text


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 15, 16, 17, 31, 47, 48, 49, 61, 62, 63, 64, 100, 401])
@pytest.mark.parametrize("alphabet", ["a", "ab", "abcdefgh", "é漢"])
def test_pieces_of_every_length(trained: BPETokenizer, length: int, alphabet: str) -> None:
    """Across the borders between the caches, the scan and the heap; twice, for the caches."""
    generator = np.random.default_rng(length)
    for _ in range(5):
        piece = "".join(generator.choice(list(alphabet), length))
        expected = merge_by_definition(trained, piece.encode())
        assert trained.encode(piece).tolist() == expected
        assert trained.encode(piece).tolist() == expected


def test_megabytes_without_a_space(trained: BPETokenizer) -> None:
    """Would take hours if merging were quadratic."""
    random = "".join(np.random.default_rng(1).choice(list("abcdefgh"), 1_000_000))
    for text in ("a" * 1_000_000, " " * 1_000_000, random, "漢" * 300_000):
        assert trained.decode(trained.encode(text)) == text
        again = BPETokenizer.train(text, 300, min_frequency=1)
        assert again.decode(again.encode(text)) == text


def test_counts_beyond_32_bits() -> None:
    """A count limit of 2^33 is not cut to 32 bits."""
    counter = _native.PieceCounter("gpt2")
    counter.add("ab ab ab" * 10)
    trainer = _native.BpeTrainer(counter)
    assert trainer.run(258, 1, 2**33 + 1) == 0
    assert trainer.run(257, 1, 30) == 1


def test_batches_and_threads(trained: BPETokenizer) -> None:
    texts = [f"text {i} " * (i % 97) for i in range(2000)] + ["", "é"]
    expected = [trained.encode(text).tolist() for text in texts]
    for threads in (None, 1, 2, 7):
        assert [ids.tolist() for ids in trained.encode_batch(iter(texts), threads=threads)] == expected
    assert trained.encode_batch([]) == []
    with pytest.raises(TokenizerError, match="threads is 0"):
        trained.encode_batch(["a"], threads=0)
    with pytest.raises(TokenizerError, match="not one text"):
        trained.encode_batch("abc")


def test_many_python_threads_share_one_tokenizer(trained: BPETokenizer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = [f"{i} " * 500 + Path(__file__).read_text()[i:] for i in range(40)]
    expected = [trained.encode(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for ids in pool.map(trained.encode, texts)] == expected


def test_a_result_outlives_what_made_it() -> None:
    """Long results are the C core's own memory, handed to NumPy."""
    text = "ab" * 100_000
    ids = BPETokenizer.train("ab", 256).encode(text)
    assert bytes(ids.astype(np.uint8)).decode() == text
    ids[0] = 7  # and it is writable


def test_special_tokens(trained: BPETokenizer) -> None:
    end, short, prefix = (trained.special_tokens[s] for s in ("<|endoftext|>", "<|end|>", "<|endof"))
    assert [end, short, prefix] == [697, 698, 699]
    text = "a<|endoftext|><|end|>b<|endof"
    assert not {end, short, prefix} & set(trained.encode(text).tolist())
    a, b = ord("a"), ord("b")
    assert trained.encode(text, allowed_special="all").tolist() == [
        a,
        end,
        short,
        b,
        prefix,
    ]  # the longest that matches
    only = trained.encode(text, allowed_special={"<|end|>"}).tolist()
    assert only == [*trained.encode("a<|endoftext|>").tolist(), short, *trained.encode("b<|endof").tolist()]
    assert trained.encode("", allowed_special="all").tolist() == []
    assert trained.decode([a, end, b]) == "a<|endoftext|>b"
    batch = trained.encode_batch([text, ""], allowed_special="all")
    assert [ids.tolist() for ids in batch] == [[a, end, short, b, prefix], []]
    with pytest.raises(TokenizerError, match="'<x>' is no special token"):
        trained.encode("a", allowed_special=["<x>"])
    with pytest.raises(TokenizerError, match='must be "none", "all" or a collection'):
        trained.encode("a", allowed_special="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("special", [[""], ["a"], ["<s>", "<s>"], ["\n"], [7], "<s>"])
def test_special_tokens_that_cannot_be(special: list[str]) -> None:
    with pytest.raises(TokenizerError, match=r"special.token"):
        BPETokenizer.train("abc", 300, special_tokens=special)


def test_training_options() -> None:
    for vocab_size in (0, 255, 256, -1, 1 << 20):
        with pytest.raises(
            TokenizerError, match=f"vocab_size is {vocab_size}; with 1 special tokens it must be from 257"
        ):
            BPETokenizer.train("abc", vocab_size, special_tokens=["<s>"])
    with pytest.raises(TokenizerError, match="no text to learn merges from"):
        BPETokenizer.train(["", ""], 300)
    with pytest.raises(TokenizerError, match="open_source"):
        BPETokenizer.train(Path("corpus.txt"), 300)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="not bytes"):
        BPETokenizer.train([b"abc"], 300)  # type: ignore[list-item]
    seen: list[tuple[int, int]] = []
    BPETokenizer.train("abcd " * 9, 260, special_tokens=["<s>"], progress=lambda n, of: seen.append((n, of)))
    assert seen == [(259, 259)]


def test_files_are_read_in_chunks_that_cut_no_word(tmp_path, monkeypatch) -> None:
    text = Path(__file__).read_text() + "\r\nx \u3000 y\n\n" * 30 + "漢字" * 100
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt").write_bytes(b"second file")
    expected = spelled_merges(BPETokenizer.train([text + "\n", "second file"], 500))
    for chunk in (1, 2, 7, 64, 1 << 20):
        monkeypatch.setattr("gollm.system.plain_text.HEAD_BYTES", 1)
        monkeypatch.setattr("gollm.system.plain_text.READ_BYTES", chunk)
        tokenizer = BPETokenizer.train(open_source([tmp_path / "a.txt", str(tmp_path / "b.txt")]).iter_text(), 500)
        assert spelled_merges(tokenizer) == expected
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"latin.txt is not UTF-8"):
        BPETokenizer.train(open_source([tmp_path / "latin.txt"]).iter_text(), 300)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "é\ud83d"])
def test_a_lone_surrogate_is_no_character(trained: BPETokenizer, text: str) -> None:
    place = next(i for i, c in enumerate(text) if 0xD800 <= ord(c) < 0xE000)
    with pytest.raises(TokenizerError, match=rf"lone surrogate U\+{ord(text[place]):04X} at position {place}"):
        trained.encode(text)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        trained.encode_batch(["fine", text])


def test_text_must_be_str(trained: BPETokenizer) -> None:
    for value in (b"bytes", None, 3, ["a"]):
        with pytest.raises(TypeError, match="text must be a str"):
            trained.encode(value)  # type: ignore[arg-type]


@settings(max_examples=20)
@given(st.data())
def test_a_piece_does_not_depend_on_its_place(trained: BPETokenizer, data: st.DataObject) -> None:
    """A text is encoded the same alone, at any place of a longer text, and at any distance from its end."""
    text = data.draw(CROWDED)
    before, after = data.draw(CROWDED), data.draw(CROWDED)
    whole = f"{before}x\n\n{text}y"  # "x" ends a piece before a line end, whatever follows
    assert (
        trained.encode(whole).tolist()
        == trained.encode(f"{before}x").tolist() + trained.encode(f"\n\n{text}y").tolist()
    )
    assert trained.decode(trained.encode(whole + after)) == whole + after


def test_pickles(trained: BPETokenizer) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(trained))
    assert again.encode("the same").tolist() == trained.encode("the same").tolist()
    assert again.special_tokens == trained.special_tokens

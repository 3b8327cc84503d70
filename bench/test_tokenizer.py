"""How fast text becomes ids, and merges are learned; one thread, beside tiktoken and Hugging Face's tokenizers.

pytest bench/test_tokenizer.py

`MB/s` is of UTF-8. `first` has just made the tokenizer: its caches are empty. `ratio` is the peer's median time over
gollm's, both measured here; a peer that isn't installed is left out. GPT-2's vocabulary comes from ../shared/data;
without it a vocabulary of the same size is trained on the standard library.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from gollm.data import open_source
from gollm.tokenizers import BPETokenizer, load
from gollm.tokenizers.gpt2_files import to_vocab

os.environ["RAYON_NUM_THREADS"] = "1"  # the peers' threads
os.environ["TOKENIZERS_PARALLELISM"] = "false"

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SOURCE_CODE = 4_700_000  # characters of it are encoded and learned from
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


@cache
def texts() -> dict[str, str]:
    found = {"python": "".join(open_source().iter_text())[:SOURCE_CODE]}
    if (DATA / "tinyshakespeare.txt").exists():
        found["shakespeare"] = (DATA / "tinyshakespeare.txt").read_text()
    return found


@cache
def tokenizer() -> BPETokenizer:
    if (DATA / "gpt2-encoder.json").exists():
        found = load(DATA / "gpt2-encoder.json")
        assert isinstance(found, BPETokenizer)
        return found
    return BPETokenizer.train(open_source().iter_text(), 50257, special_tokens=["<|endoftext|>"])


def tiktoken_encode() -> Callable[[str], object] | None:
    try:
        import tiktoken
    except ImportError:
        return None
    special = set(tokenizer().special_tokens.values())
    ranks = {token: i for i, token in enumerate(tokenizer().vocabulary) if i not in special}
    return tiktoken.Encoding("bench", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def huggingface_encode() -> Callable[[str], object] | None:
    try:
        import tokenizers
    except ImportError:
        return None
    vocab, merges = to_vocab(tokenizer())
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return peer.encode


def huggingface_train() -> Callable[[str], object] | None:
    try:
        import tokenizers
    except ImportError:
        return None

    def train(text: str) -> None:
        peer = tokenizers.Tokenizer(tokenizers.models.BPE())
        peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=32768, initial_alphabet=alphabet, show_progress=False)
        peer.train_from_iterator([text], trainer)

    return train


def seconds(work: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    work(text)
    return time.perf_counter() - started


def report(benchmark, text: str, peers: dict[str, Callable[[str], object] | None]) -> None:
    """Writes MB/s and the ratios to the peers beside the measurement."""
    if benchmark.stats is None:  # --benchmark-disable
        return
    ours = benchmark.stats.stats.median
    benchmark.extra_info["MB/s"] = round(len(text.encode()) / ours / 1e6, 1)
    for name, peer in peers.items():
        if peer is not None:
            theirs = statistics.median(seconds(peer, text) for _ in range(3))
            benchmark.extra_info[f"ratio to {name}"] = round(theirs / ours, 1)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.mark.parametrize("name", sorted(texts()))
def test_encode(benchmark, name: str) -> None:
    text = texts()[name]
    tokenizer().encode(text)
    benchmark.pedantic(tokenizer().encode, (text,), rounds=15)
    report(benchmark, text, {"tiktoken": tiktoken_encode(), "tokenizers": huggingface_encode()})


@pytest.mark.parametrize("name", sorted(texts()))
def test_encode_first(benchmark, name: str) -> None:
    text = texts()[name]

    def fresh():
        new = BPETokenizer.from_state(*tokenizer().to_state())
        new.check()
        return (new, text), {}

    benchmark.pedantic(BPETokenizer.encode, setup=fresh, rounds=7)
    report(benchmark, text, {})


def test_encode_batch_of_short_texts(benchmark) -> None:
    text = texts()["python"][:1_000_000]
    lines = text.splitlines(keepends=True)
    benchmark.pedantic(lambda: tokenizer().encode_batch(lines, threads=1), rounds=7)
    report(benchmark, text, {})


def test_a_megabyte_without_a_space(benchmark) -> None:
    text = "abcdefgh" * 125_000
    benchmark.pedantic(tokenizer().encode, (text,), rounds=3)
    report(benchmark, text, {})


def test_decode(benchmark) -> None:
    text = texts()["python"]
    ids = tokenizer().encode(text)
    benchmark.pedantic(tokenizer().decode, (ids,), rounds=7)
    report(benchmark, text, {})


def test_train(benchmark) -> None:
    text = texts()["python"]
    benchmark.pedantic(lambda: BPETokenizer.train(text, 32768, min_frequency=1), rounds=5)
    report(benchmark, text, {"tokenizers": huggingface_train()})


def test_opening_a_checkpoints_tokenizer(benchmark) -> None:
    state = tokenizer().to_state()
    benchmark(lambda: BPETokenizer.from_state(*state))


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__)), "-s"]))

"""How fast text becomes ids, and merges are learned; one thread, beside tiktoken and Hugging Face's tokenizers.

pytest bench/test_tokenizer.py

`MB/s` is of UTF-8. `first` has just made the tokenizer: its caches are empty. `ratio` is the peer's median time over
gollm's, both measured here; a peer that isn't installed is left out. GPT-2's vocabulary comes from ../shared/data;
without it a vocabulary of the same size is trained on the standard library. For the other patterns one of 32 768 tokens
is trained on the texts.
"""

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from gollm.data import open_source
from gollm.tokenizers import BPETokenizer, load, save
from gollm.tokenizers.patterns import PATTERNS, REGEXES

os.environ["RAYON_NUM_THREADS"] = "1"  # the peers' threads
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Faster spellings that tiktoken has of these.
TIKTOKEN = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s""",
}

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SOURCE_CODE = 4_700_000  # characters of it are encoded and learned from


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


@cache
def trained(pattern: str) -> BPETokenizer:
    """A tokenizer of another pattern, with 32 768 tokens learned from all texts."""
    return BPETokenizer.train(texts().values(), 32768, pattern=pattern, min_frequency=1)


def tiktoken_encode(ours: BPETokenizer) -> Callable[[str], object] | None:
    try:
        import tiktoken
    except ImportError:
        return None
    special = set(ours.special_tokens.values())
    ranks = {token: i for i, token in enumerate(ours.vocabulary) if i not in special}
    regex = TIKTOKEN.get(str(ours.pattern)) or REGEXES[str(ours.pattern)]
    return tiktoken.Encoding("bench", pat_str=regex, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def huggingface_encode(ours: BPETokenizer) -> Callable[[str], object] | None:
    try:
        import tokenizers
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save(ours, Path(folder) / "tokenizer.json", "huggingface")
        return tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json").encode


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


def of_pattern(pattern: str) -> BPETokenizer:
    return tokenizer() if pattern == "gpt2" else trained(pattern)


@pytest.mark.parametrize("name", sorted(texts()))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_encode(benchmark, pattern: str, name: str) -> None:
    text, ours = texts()[name], of_pattern(pattern)
    ours.encode(text)
    benchmark.pedantic(ours.encode, (text,), {"threads": 1}, rounds=15)
    report(benchmark, text, {"tiktoken": tiktoken_encode(ours), "tokenizers": huggingface_encode(ours)})


@pytest.mark.parametrize("name", sorted(texts()))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_encode_first(benchmark, pattern: str, name: str) -> None:
    text = texts()[name]

    def fresh():
        new = BPETokenizer.from_state(*of_pattern(pattern).to_state())
        new.check()
        return (new, text), {"threads": 1}

    benchmark.pedantic(BPETokenizer.encode, setup=fresh, rounds=7)
    report(benchmark, text, {})


@pytest.mark.parametrize("threads", [1, 2])
def test_encode_on_threads(benchmark, threads: int) -> None:
    text = texts()["python"]
    benchmark.pedantic(tokenizer().encode, (text,), {"threads": threads}, rounds=15, warmup_rounds=2)
    report(benchmark, text, {})


def test_encode_by_a_regular_expression(benchmark) -> None:
    text = texts()["python"][:1_000_000]
    ours = BPETokenizer.train(text, 32768, pattern=r"\p{L}+|\p{N}+|\s+|[^\s\p{L}\p{N}]+")
    benchmark.pedantic(ours.encode, (text,), rounds=3)
    report(benchmark, text, {})


HORRORS = {
    "no space": "abcdefgh",
    "random letters": "".join(random.Random(1).choices("abcdefghijklmnop", k=8192)),
    "spaces": " ",
    "lines": " \n",
    "marks": "e\u0301\u0316",
    "upper and caseless": "漢A",
    "apostrophes": "'",
    "signs": "!/\n",
    "numbers": "1",
    "emoji": "👩\u200d👩\u200d👧",
}


@pytest.mark.parametrize("name", HORRORS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_is_linear(benchmark, pattern: str, name: str) -> None:
    """`times` is how much longer ten times the text takes: a million characters to 100 000."""
    ours = of_pattern(pattern)
    short = HORRORS[name] * (100_000 // len(HORRORS[name]))

    def encode(text: str) -> float:
        return min(seconds(lambda text: ours.encode(text, threads=1), text) for _ in range(5))

    benchmark.pedantic(ours.encode, (10 * short,), {"threads": 1}, rounds=1)
    benchmark.extra_info["times"] = round(encode(10 * short) / encode(short), 1)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


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

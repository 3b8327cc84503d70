"""How fast SentencePiece's BPE and WordPiece are, on one thread, beside sentencepiece and Hugging Face's tokenizers.

pytest bench/test_piece_tokenizers.py

`MB/s` is of UTF-8; `ratio` is the peer's median time over gollm's, both measured here. Vocabularies are learned from
the standard library's source: 8000 pieces by sentencepiece, 8000 WordPiece tokens by gollm.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from gollm.data import open_source
from gollm.tokenizers import SentencePieceTokenizer, WordPieceTokenizer, load, save

os.environ["RAYON_NUM_THREADS"] = "1"  # the peers' threads
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SIZE = 2_000_000  # characters


@cache
def text() -> str:
    return "".join(open_source().iter_text())[:SIZE]


@cache
def model() -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    lines = (line for line in text().split("\n") if len(line) < 4000)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=out, model_type="bpe", vocab_size=8000, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


@cache
def sentencepiece_tokenizer() -> SentencePieceTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(model())
        tokenizer = load(folder)
        assert isinstance(tokenizer, SentencePieceTokenizer)
        return tokenizer


@cache
def wordpiece_tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer.train(text(), 8000)


def in_tokenizers(ours: SentencePieceTokenizer | WordPieceTokenizer) -> Callable[[str], object] | None:
    """The same tokenizer in Hugging Face's library."""
    try:
        import tokenizers
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save(ours, Path(folder) / "tokenizer.json", "huggingface")
        return tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode


def seconds(work: Callable[[str], object], sample: str) -> float:
    started = time.perf_counter()
    work(sample)
    return time.perf_counter() - started


def report(benchmark, sample: str, peers: dict[str, Callable[[str], object] | None]) -> None:
    """Writes MB/s and the ratios to the peers beside the measurement."""
    if benchmark.stats is None:  # --benchmark-disable
        return
    ours = benchmark.stats.stats.median
    benchmark.extra_info["MB/s"] = round(len(sample.encode()) / ours / 1e6, 1)
    for name, peer in peers.items():
        if peer is not None:
            theirs = statistics.median(seconds(peer, sample) for _ in range(3))
            benchmark.extra_info[f"ratio to {name}"] = round(theirs / ours, 1)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def test_sentencepiece(benchmark) -> None:
    import sentencepiece

    ours = sentencepiece_tokenizer()
    peer = sentencepiece.SentencePieceProcessor(model_proto=model())
    ours.encode(text())
    benchmark.pedantic(ours.encode, (text(),), {"threads": 1}, rounds=9)
    report(benchmark, text(), {"sentencepiece": peer.encode, "tokenizers": in_tokenizers(ours)})


def test_sentencepiece_first(benchmark) -> None:
    def fresh():
        new = SentencePieceTokenizer.from_state(*sentencepiece_tokenizer().to_state())
        new.check()
        return (new, text()), {"threads": 1}

    benchmark.pedantic(SentencePieceTokenizer.encode, setup=fresh, rounds=5)
    report(benchmark, text(), {})


def test_wordpiece(benchmark) -> None:
    ours = wordpiece_tokenizer()
    ours.encode(text())
    benchmark.pedantic(ours.encode, (text(),), {"threads": 1}, rounds=9)
    report(benchmark, text(), {"tokenizers": in_tokenizers(ours)})


def test_training_wordpiece(benchmark) -> None:
    def huggingface_train(sample: str) -> None:
        import tokenizers

        peer = tokenizers.BertWordPieceTokenizer()
        peer.train_from_iterator([sample], vocab_size=8000, show_progress=False)

    benchmark.pedantic(WordPieceTokenizer.train, (text(), 8000), rounds=1)
    report(benchmark, text(), {"tokenizers": huggingface_train})


@pytest.mark.parametrize("sample", ["ab", " ", "a ", "é", "漢", "\u0301", "🙂", "a\u0301", "!"])
@pytest.mark.parametrize("make", [sentencepiece_tokenizer, wordpiece_tokenizer])
def test_time_is_linear(benchmark, make: Callable[[], SentencePieceTokenizer], sample: str) -> None:
    """`10 x` is the time of ten times the text over that of the text, medians."""
    ours, short = make(), sample * (100_000 // len(sample))
    benchmark.pedantic(ours.encode, (short,), {"threads": 1}, rounds=7)
    if benchmark.stats is None:
        return
    tenfold = statistics.median(seconds(lambda one: ours.encode(one, threads=1), short * 10) for _ in range(7))
    benchmark.extra_info["10 x"] = round(tenfold / benchmark.stats.stats.median, 1)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__)), "-s"]))

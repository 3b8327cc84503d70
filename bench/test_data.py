"""How long data takes: a batch, a second start, and opening a checkpoint of half a gigabyte.

pytest bench/test_data.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from gollm.checkpoint import open_checkpoint, write_checkpoint
from gollm.data import Sampler, Tokens, open_source, prepare
from gollm.tokenizers import CharacterTokenizer


@pytest.mark.parametrize("shape", [(12, 64), (4, 1024)], ids=str)
def test_a_batch(benchmark, shape):
    tokens = Tokens([np.random.default_rng(0).integers(0, 50257, 5_000_000).astype(np.uint16)], vocab_size=50257)
    sampler = Sampler(tokens, batch_size=shape[0], context=shape[1], seed=0)
    benchmark(sampler.next_batch)


def test_the_second_start(benchmark, tmp_path):
    """8 MiB of source text: hashing it, finding the tokens, checking them."""
    tokenizer = CharacterTokenizer.train(open_source().iter_text(), None)
    prepare(open_source(), tokenizer, cache_dir=tmp_path)
    benchmark(lambda: prepare(open_source(), tokenizer, cache_dir=tmp_path))


def test_opening_half_a_gigabyte(benchmark, tmp_path):
    """The aim is below 0.1 s."""
    path = tmp_path / "large.golm"
    write_checkpoint(path, config={}, tensors={f"h.{i}": np.ones((1024, 2048), np.float32) for i in range(64)})

    def open_and_touch():
        with open_checkpoint(path) as file:
            return file.tensors["h.63"][-1, -1]

    assert benchmark(open_and_touch) == 1
    if benchmark.stats is not None:
        benchmark.extra_info["MB"] = path.stat().st_size >> 20


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__))]))

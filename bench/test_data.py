"""How long data takes: a batch, and a second start.

pytest bench/test_data.py
"""

import sys
from pathlib import Path

import numpy as np
import pytest

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


if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__))]))

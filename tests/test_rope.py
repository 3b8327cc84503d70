"""The table of rotations: its values, how it grows, and that other threads never see it half made."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gollm.model.config import ModelConfig
from gollm.model.rope import Rotations, frequencies
from gollm.nn.tensor import FLOAT32, FLOAT64

CONFIG = ModelConfig(n_layers=1, n_heads=1, d_model=8, vocab_size=10, context=200_000, position="rope")


def test_rows_are_cosines_and_sines_whatever_was_asked_for_before():
    at_once, step_by_step = Rotations(CONFIG, FLOAT64), Rotations(CONFIG, FLOAT64)
    for n in (1, 2, 3, 7, 100, 99, 1000):
        assert len(step_by_step(n)) >= n
    table = at_once(1000)
    np.testing.assert_array_equal(step_by_step(1000)[:1000], table[:1000])
    angles = np.arange(1000)[:, None] * frequencies(CONFIG)
    np.testing.assert_array_equal(table[:1000, 0::2], np.cos(angles))
    np.testing.assert_array_equal(table[:1000, 1::2], np.sin(angles))


def test_token_by_token_few_tables_are_made_however_long_the_text():
    rotations = Rotations(CONFIG, FLOAT32)
    tables = {id(table): table for table in map(rotations, range(1, 200_001, 50))}
    assert len(tables) <= 2 + np.log2(200_000)
    assert len(rotations(200_000)) == 200_000


def test_threads_see_whole_tables():
    """Were the table there before its values, a thread would now and then read what its memory held before."""
    for _ in range(50):
        rotations = Rotations(CONFIG, FLOAT32)
        with ThreadPoolExecutor(4) as pool:
            tables = list(pool.map(lambda n, rotations=rotations: rotations(n)[:n].copy(), [4000, 3000, 2000, 1000]))
        norms = [table[:, 0::2] ** 2 + table[:, 1::2] ** 2 for table in tables]
        assert all(np.allclose(norm, 1, atol=1e-6) for norm in norms)

"""What the row of embedding.c does not say: tables left out, and ids outside of a table."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError

N, C, V, T = 5, 3, 4, 6


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        "tokens": np.array([0, 3, 1, 3, 2], np.int32),
        "positions": np.array([5, 0, 1, 2, 5], np.int32),
        "token_table": rng.standard_normal((V, C), np.float32),
        "position_table": rng.standard_normal((T, C), np.float32),
    }


def test_without_positions(arrays):
    y, dy = np.empty((N, C), np.float32), np.ones((N, C), np.float32)
    _native.embedding_forward(y=y, tokens=arrays["tokens"], token_table=arrays["token_table"])
    assert (y == arrays["token_table"][arrays["tokens"]]).all()
    dtable = np.empty((V, C), np.float32)
    _native.embedding_backward(dtoken_table=dtable, dy=dy, tokens=arrays["tokens"])
    assert (dtable[:, 0] == np.bincount(arrays["tokens"], minlength=V)).all()


def test_only_the_gradients_that_are_wanted(arrays):
    dy, ids = np.ones((N, C), np.float32), {"tokens": arrays["tokens"], "positions": arrays["positions"]}
    dtable = np.empty((T, C), np.float32)
    _native.embedding_backward(dposition_table=dtable, dy=dy, **ids)
    assert (dtable[:, 0] == np.bincount(arrays["positions"], minlength=T)).all()
    _native.embedding_backward(dy=dy, **ids)


@pytest.mark.parametrize("name, table", [("tokens", V), ("positions", T)])
@pytest.mark.parametrize("threads", [1, 3])
def test_ids_outside_of_their_table_are_refused_before_anything_is_written(arrays, name, table, threads):
    before = _native.num_threads()
    _native.set_num_threads(threads)
    try:
        for bad in (-1, table, 2**31 - 1, -(2**31)):
            arrays[name][-1] = bad
            y = np.full((N, C), 7, np.float32)
            with pytest.raises(KernelError, match="outside"):
                _native.embedding_forward(y=y, **arrays)
            assert (y == 7).all()
            dtables = {
                "dtoken_table": np.full((V, C), 7, np.float32),
                "dposition_table": np.full((T, C), 7, np.float32),
            }
            ids = {key: arrays[key] for key in ("tokens", "positions")}
            with pytest.raises(KernelError, match="outside"):
                _native.embedding_backward(**dtables, dy=y, **ids)
            assert all((value == 7).all() for value in dtables.values())
    finally:
        _native.set_num_threads(before)

"""The order of rows in the projections of queries and keys.

A rotary embedding turns pairs of a head's D values. gollm, GGUF and llama2.c have a pair side by side (2i, 2i + 1),
Hugging Face half a head apart (i, i + D/2). Every row is the same in both orders, so that nothing is lost on the way.
"""

from __future__ import annotations

import numpy as np

from gollm.kernels import Array


def to_half_split(rows: Array, head_dim: int) -> Array:
    """Rows (heads * D, ...) with pairs side by side -> a view (heads, 2, D/2, ...)
    with pairs half a head apart.

    >>> to_half_split(np.arange(8), 4).reshape(-1).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return np.swapaxes(rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]), 1, 2)


def to_interleaved(rows: Array, head_dim: int) -> Array:
    """The way back: rows (heads * D, ...) with pairs half a head apart -> a view
    (heads, D/2, 2, ...) with pairs side by side.

    >>> to_interleaved(np.array([0, 2, 1, 3]), 4).reshape(-1).tolist()
    [0, 1, 2, 3]
    """
    return np.swapaxes(rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]), 1, 2)

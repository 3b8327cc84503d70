"""What NumPy does in its turn, mostly through OpenBLAS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def matmul(layout: str, M: int, N: int, K: int) -> tuple[Callable[[], object], int]:
    """c (M, N) = op(a) op(b)"""
    rng = np.random.default_rng(0)
    a = rng.random((K, M) if layout == "TN" else (M, K), np.float32)
    b = rng.random((N, K) if layout == "NT" else (K, N), np.float32)
    c = np.ones((M, N), np.float32)
    left, right = a.T if layout == "TN" else a, b.T if layout == "NT" else b
    return lambda: np.matmul(left, right, out=c), a.nbytes + b.nbytes + c.nbytes

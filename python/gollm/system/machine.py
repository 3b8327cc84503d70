"""What this machine can do: the limits that speeds are compared with.

Measured with the instructions and the threads that the kernels use."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from gollm import _native

isa = _native.isa  # the instruction-set variant of the kernels
num_threads = _native.num_threads

SUMMED_BYTES = 320 << 20  # more than any cache that is common


def _best_rate(work: Callable[[], float], seconds: float) -> float:
    """The best rate of `work`, which returns how much it did, in calls for `seconds` after a first one."""
    work()
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        amount = work()
        now = time.perf_counter()
        best = max(best, amount / (now - begin))
        if now >= end:
            return best


def fma_peak(seconds: float = 1.0) -> float:
    """FLOP/s of float32 multiply-adds in registers, on all of gollm's threads: the limit of every product.

    Takes about `seconds`; 0.1 is enough on a quiet machine."""
    flops, result = np.zeros(1), np.zeros(1, np.float32)

    def work() -> float:
        _native.measure_fma(flops=flops, result=result, iterations=200_000)  # about a millisecond
        return float(flops[0]) * _native.num_threads()

    return _best_rate(work, seconds)


def product_rate(compute: int, seconds: float = 0.25) -> float:
    """FLOP/s of a product, operands as gollm.nn.products says, on all of gollm's threads: GPT-2's output projection of
    1024 tokens.

    Takes about `seconds`."""
    x, w, y = (np.ones(shape, np.float32) for shape in ((1024, 768), (768, 768), (1024, 768)))

    def work() -> float:
        _native.matmul_nt(c=y, a=x, b=w, activation=0, compute=compute)
        return 2.0 * 1024 * 768 * 768

    return _best_rate(work, seconds)


def read_bandwidth(seconds: float = 1.0) -> float:
    """Bytes/s of reading memory from front to back, on all of gollm's threads: the limit of decoding.

    Takes about `seconds` and the time to fill 320 MB."""
    x, sums = np.ones(SUMMED_BYTES // 4, np.float32), np.zeros(64, np.float32)

    def work() -> float:
        _native.measure_read(sums=sums, x=x)
        return float(x.nbytes)

    return _best_rate(work, seconds)

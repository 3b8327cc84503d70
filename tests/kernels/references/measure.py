"""csrc/measure.c"""

import itertools

import numpy as np

from kernels.harness import LENGTHS, kernel


@kernel("measure_read", shapes=[(n,) for n in LENGTHS])
def measure_read(x):
    cuts = np.minimum(-(-len(x) // 16) * np.arange(65) // 64 * 16, len(x))
    return {"sums": np.array([x[a:b].sum() for a, b in itertools.pairwise(cuts)])}


@kernel("measure_fma", shapes=[{"iterations": n} for n in (0, 100, 1000)], summands=lambda s: 1)
def measure_fma(iterations):
    return {"result": np.array([min(iterations, 1.0)]), "flops": np.array([2.0 * 12 * 16 * iterations])}

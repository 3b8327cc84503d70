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


@kernel(
    "measure_stream",
    shapes=[
        {"S": rows, "N": n, "reads": reads, "writes": writes}
        for n in (1, 17, 64, 1001)
        for rows, reads, writes in [(1, 1, 0), (2, 0, 1), (2, 1, 1), (3, 2, 1), (3, 3, 1), (4, 4, 3)]
    ],
    summands=lambda s: s.reads,
    nonfinite=(),
)
def measure_stream(x, reads, writes):
    x = x.copy()
    x[len(x) - writes :] = x[:reads].sum(0)
    return {"x": x}

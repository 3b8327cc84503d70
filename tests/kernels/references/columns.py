"""csrc/columns.c"""

import numpy as np

from kernels.harness import kernel

CASES = [
    {"M": M, "W": W, "N": N, "begin": begin}
    for M, W, N, begin in [
        (1, 1, 1, 0),
        (3, 7, 2, 5),
        (3, 7, 7, 0),
        (5, 40, 17, 3),
        (129, 96, 64, 16),
        (2, 5000, 4001, 9),
    ]
]


@kernel("columns_take", shapes=CASES, empty=["M"])
def columns_take(whole, begin, N):
    return {"part": whole[:, begin : begin + N]}


@kernel("columns_put", shapes=CASES, empty=["M"])
def columns_put(part, begin, W):
    whole = np.zeros((len(part), W))
    whole[:, begin : begin + part.shape[1]] = part
    return {"whole": whole}

"""csrc/fill.c"""

import numpy as np

from kernels.harness import LENGTHS, kernel


@kernel("fill", shapes=[(n,) for n in LENGTHS], scalars={"value": [0.0, -1.5]})
def fill(value, N):
    return {"y": np.full(N, value)}

"""csrc/rmsnorm.c"""

import numpy as np

from kernels.harness import kernel

SHAPES = [(1, 1), (1, 2), (2, 3), (3, 7), (5, 16), (4, 31), (64, 768), (67, 33), (129, 1001), (300, 17)]


@kernel("rmsnorm_forward", shapes=SHAPES, scalars={"eps": 1e-5})
def rmsnorm_forward(x, w, eps):
    r = 1 / np.sqrt((x * x).mean(-1) + eps)
    return {"y": x * r[:, None] * w, "r": r}


@kernel("rmsnorm_backward", forward="rmsnorm_forward", shapes=SHAPES, scalars={"eps": 1e-5})
def rmsnorm_backward(dy, x, w, r):
    g, h = dy * w, x * r[:, None]
    return {"dx": r[:, None] * (g - h * (g * h).mean(-1, keepdims=True)), "dw": (dy * h).sum(0)}

"""csrc/layernorm.c"""

import numpy as np

from kernels.harness import kernel

SHAPES = [(1, 1), (1, 2), (2, 3), (3, 7), (5, 16), (4, 31), (64, 768), (67, 33), (129, 1001), (300, 17)]


@kernel("layernorm_forward", shapes=SHAPES, scalars={"eps": 1e-5})
def layernorm_forward(x, w, b, eps):
    mean = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    y = (x - mean) * rstd * w + (0 if b is None else b)
    return {"y": y, "mean": mean[:, 0], "rstd": rstd[:, 0]}


@kernel("layernorm_backward", forward="layernorm_forward", shapes=SHAPES, scalars={"eps": 1e-5})
def layernorm_backward(dy, x, w, mean, rstd):
    mean, rstd = mean[:, None], rstd[:, None]
    g, h = dy * w, (x - mean) * rstd
    dx = rstd * (g - g.mean(-1, keepdims=True) - h * (g * h).mean(-1, keepdims=True))
    return {"dx": dx, "dw": (dy * h).sum(0), "db": dy.sum(0)}

"""csrc/softmax.c"""

import numpy as np

from kernels.harness import kernel

SHAPES = [(1, 1), (1, 2), (2, 3), (3, 7), (5, 16), (4, 31), (67, 33), (129, 1001), (300, 17)]


@kernel("softmax_forward", shapes=SHAPES)
def softmax_forward(x):
    e = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
    return {"y": e / e.sum(-1, keepdims=True)}


@kernel("softmax_backward", forward="softmax_forward", shapes=SHAPES)
def softmax_backward(dy, y):
    return {"dx": y * (dy - (dy * y).sum(-1, keepdims=True))}

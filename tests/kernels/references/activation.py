"""csrc/activation.c"""

import math

import numpy as np

from kernels.harness import kernel

KINDS = {"none": 0, "gelu_tanh": 1, "gelu_erf": 2, "relu": 3, "silu": 4}
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def activation(kind, x):
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return [
        lambda: x,
        lambda: x * sigmoid(2 * u),
        lambda: x * erfc(-x / np.sqrt(2)) / 2,
        lambda: np.where(x < 0, 0.0, x),
        lambda: x * sigmoid(x),
    ][kind]()


def activation_gradient(kind, x):
    u, slope = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3), np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return [
        lambda: np.ones_like(x),
        lambda: sigmoid(2 * u) * (1 + 2 * x * slope * sigmoid(-2 * u)),
        lambda: erfc(-x / np.sqrt(2)) / 2 + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
        lambda: np.where(x <= 0, 0.0, np.where(x > 0, 1.0, x)),
        lambda: sigmoid(x) * (1 + x * sigmoid(-x)),
    ][kind]()


def wide(rng, s):
    """Into the tails, but not so near to 0 that differences are taken across the bend of ReLU."""
    x = 3 * rng.standard_normal(s.N)
    return x + np.copysign(0.01, x)


# At infinity the smooth derivatives are NaN or their limit, as the formula is arranged: only NaN is asked for.
# 24 roundings: the derivative's terms cancel where its own slope is 0, and the sensitivity does not see their size.
ROW = {
    "shapes": [(n,) for n in (1, 3, 17, 64, 67, 1000, 4099)],
    "scalars": {"kind": list(KINDS.values())},
    "summands": lambda s: 64,
}


@kernel("activation_forward", inputs={"x": wide}, **ROW)
def activation_forward(x, kind):
    return {"y": activation(kind, x)}


@kernel("activation_backward", forward="activation_forward", nonfinite=[np.nan], **ROW)
def activation_backward(dy, x, kind):
    return {"dx": dy * activation_gradient(kind, x)}

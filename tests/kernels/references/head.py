"""csrc/head.c"""

import numpy as np

from kernels.harness import exact, kernel
from kernels.references.matmul import FLOAT32

# N, C, V; a vocabulary of 12000 goes through in chunks of 256 rows; few rows of 5000 are packed whole
SHAPES = [(1, 1, 1), (2, 3, 5), (3, 2, 1), (13, 17, 33), (70, 40, 65), (300, 5, 257), (7, 300, 600), (521, 3, 12000)]
SHAPES += [(3, 5000, 40)]
IGNORED = -100


def weight(rng, s):
    return rng.standard_normal(s.V * s.C) / np.sqrt(max(s.C, 1))


def targets(rng, s):
    ids = rng.integers(0, s.V, s.N) if s.V else np.full(s.N, IGNORED)
    return np.where(rng.random(s.N) < 0.2, IGNORED, ids)


ROW = {
    "shapes": SHAPES,
    "scalars": {"ignore_index": IGNORED, "compute": FLOAT32},  # bfloat16: test_head.py
    "inputs": {"w": weight, "targets": targets, "denominator": lambda rng, s: [7.0]},
    "summands": lambda s: s.C + s.V,
}


def losses_and_error(x, w, targets, narrow=exact):
    counted, rows = targets != IGNORED, np.arange(len(targets))
    logits = narrow(x @ w.T)
    largest = logits.max(-1, keepdims=True, initial=-np.inf)
    sums = np.exp(logits - largest).sum(-1, keepdims=True)
    picked = np.where(counted, targets, 0)
    losses = (np.log(sums) + largest - logits)[rows, picked] if len(w) else np.zeros(len(targets))
    error = np.exp(logits - largest) / sums
    if len(w):
        error[rows, picked] -= 1
    return np.where(counted, losses, 0.0), error


def divisor(denominator, targets):
    return np.array([max(1, (targets != IGNORED).sum())]) if denominator is None else denominator


@kernel("head_forward", **ROW)
def head_forward(x, w, targets, denominator, narrow):
    losses, _ = losses_and_error(x, w, targets, narrow)
    return {"losses": losses, "loss": losses.sum() / divisor(denominator, targets)}


# On the CPU nothing of an ignored row is computed (test_head.py); on a GPU it is multiplied by 0, which leaves NaN NaN.
@kernel("head_backward", forward="head_forward", nonfinite=(), **ROW)
def head_backward(dloss, x, w, targets, denominator, narrow):
    losses, error = losses_and_error(x, w, targets, narrow)
    denominator = divisor(denominator, targets)
    error = narrow(np.where((targets != IGNORED)[:, None], error * dloss / denominator, 0.0))
    return {
        "losses": losses,
        "loss": losses.sum() / denominator,
        "dx": error @ w,
        "dw": error.T @ x,
    }

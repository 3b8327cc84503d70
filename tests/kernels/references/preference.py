"""csrc/preference.c"""

import numpy as np

from kernels.harness import kernel

ROW = {
    "shapes": [(1,), (2,), (5,), (17,)],
    "scalars": {"beta": [0.1, 2.0], "kind": [0, 1]},
    "summands": lambda s: 16 + s.P,
    "nonfinite": [np.nan],
}


def difference(nll, reference):
    return (nll[:, 1] - nll[:, 0]) - (reference[:, 1] - reference[:, 0])


def positive(rng, s):
    return rng.uniform(1, 9, 1)


@kernel("preference_forward", inputs={"denominator": positive}, **ROW)
def preference_forward(nll, reference, denominator, beta, kind):
    d = difference(nll, reference)
    losses = (d - 0.5 / beta) ** 2 if kind else np.logaddexp(0, -beta * d)
    return {"losses": losses, "margins": beta * d, "loss": np.array([losses.sum() / denominator[0]])}


@kernel("preference_backward", forward="preference_forward", **ROW)
def preference_backward(dloss, nll, reference, denominator, beta, kind):
    d = difference(nll, reference)
    slope = 2 * (d - 0.5 / beta) if kind else -beta / (1 + np.exp(beta * d))
    g = slope * dloss[0] / denominator[0]
    return {"dnll": np.stack([-g, g], axis=1)}

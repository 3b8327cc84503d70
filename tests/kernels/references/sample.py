"""csrc/sample.c"""

import numpy as np

from kernels.harness import kernel
from kernels.references.dropout import WORD, philox


def kept(z, temperature, top_k, top_p, min_p):
    """The tokens that can be drawn, the largest logit first and of equal ones the smaller id, and their weights."""
    order = np.argsort(-z, kind="stable")[: int(top_k) or None]
    with np.errstate(over="ignore"):  # at a temperature near 0, to -inf
        w = np.exp((z[order] - z[order[0]]) / temperature)
    if top_p < 1:
        n = int(np.searchsorted(np.cumsum(w), top_p * w.sum())) + 1
        order, w = order[:n], w[:n]
    return order[w >= min_p], w[w >= min_p]


def uniform(seed, choice, position):
    """From [0, 1), of 53 bits."""
    seed, position = int(seed), int(position)
    counter = [position & WORD, position >> 32 & WORD, int(choice), 0]
    high, low = (int(word) for word in philox(counter, (seed & WORD, seed >> 32 & WORD))[:2])
    return ((high << 32 | low) >> 11) * 2.0**-53


def drawn(z, temperature, top_k, top_p, min_p, u):
    if not np.isfinite(z.max()):
        return -1
    if temperature == 0:
        return int(z.argmax())
    tokens, w = kept(z, temperature, top_k, top_p, min_p)
    by_id = np.argsort(tokens)
    tokens, sums = tokens[by_id], np.cumsum(w[by_id])
    return int(tokens[np.searchsorted(sums, u * sums[-1], side="right")])


# Sizes around vectors, blocks of 64, and lists too long to sort; options one by one, and together.
OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 40, "temperature": 2.0},
    {"top_k": 3000},
    {"top_k": 2**62},
    {"top_p": 1e-6},
    {"top_p": 0.9},
    {"top_p": 1 - 1e-9, "temperature": 1.5},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_k": 500, "top_p": 0.5, "temperature": 5.0},
]
SIZES = [(1, 1, 1), (3, 2, 2), (2, 7, 5), (5, 64, 64), (4, 65, 65), (2, 333, 320), (3, 4099, 4099), (2, 20000, 19999)]
CASES = [{"S": S, "V": V, "vocab_size": n, "options": options} for S, V, n in SIZES for options in OPTIONS]


def option(name, otherwise):
    return lambda rng, s: np.full(s.S, s.options.get(name, otherwise))


@kernel(
    "sample",
    shapes=CASES,
    inputs={
        "logits": lambda rng, s: 3 * rng.standard_normal((s.S, s.V)),
        "temperature": option("temperature", 1.0),
        "top_k": option("top_k", 0),
        "top_p": option("top_p", 1.0),
        "min_p": option("min_p", 0.0),
        "seed": lambda rng, s: rng.integers(-(2**63), 2**63 - 1, s.S),
        "choice": lambda rng, s: rng.integers(0, 2**32, s.S),
        "position": lambda rng, s: rng.integers(0, 2**62, s.S),
    },
    summands=lambda s: 1,
    empty=["S"],
)
def sample(logits, temperature, top_k, top_p, min_p, seed, choice, position, vocab_size):
    columns = zip(logits[:, :vocab_size], temperature, top_k, top_p, min_p, seed, choice, position, strict=True)
    return {"tokens": np.array([drawn(z, *options, uniform(*where)) for z, *options, where in split(columns)])}


def split(rows):
    return ((z, t, k, p, m, where) for z, t, k, p, m, *where in rows)


@kernel("log_sum_exp", shapes=[(1, 1), (3, 7), (2, 64), (67, 129), (4, 4099)], empty=["S"])
def log_sum_exp(logits):
    largest = logits.max(-1, keepdims=True)
    return {"lse": largest[:, 0] + np.log(np.exp(logits - largest).sum(-1))}

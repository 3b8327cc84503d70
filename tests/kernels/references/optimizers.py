"""csrc/adamw.c, csrc/sgd.c, csrc/gradient_norm.c"""

import numpy as np

from kernels.harness import LENGTHS, kernel
from kernels.references.bf16 import bits_of, float_of
from kernels.references.dropout import WORD, philox

STEPS = {"lr": lambda rng, s: [0.01], "grad_scale": lambda rng, s: [0.25], "step": lambda rng, s: [1 + s.N % 5]}
DECAYED = [{"N": n, "n_decay": k} for n in LENGTHS for k in {0, n // 3, n}]


@kernel(
    "adamw",
    shapes=DECAYED,
    scalars={"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
    inputs={**STEPS, "v": lambda rng, s: rng.standard_normal(s.N) ** 2},
    summands=lambda s: 1,
)
def adamw(w, m, v, g, lr, step, grad_scale, beta1, beta2, eps, weight_decay, n_decay, N):
    g = g * grad_scale
    m = m + (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w = w * np.where(np.arange(N) < n_decay, 1 - lr * weight_decay, 1)
    divisor = np.sqrt(v / (1 - beta2**step)) + eps
    return {"w": w - lr / (1 - beta1**step) * m / divisor, "m": m, "v": v}


def rounding_bits(n, step, seed):
    """16 random bits for each of n elements: number 8 b + 2 w + h has half h of word w of counter b."""
    counters = np.arange(-(-n // 8))
    same = [np.full(counters.shape, value) for value in (WORD, step & WORD, step >> 32 & WORD)]
    drawn = philox([counters, *same], (seed & WORD, seed >> 32 & WORD)).T
    return np.stack([drawn & np.uint64(0xFFFF), drawn >> np.uint64(16)], axis=-1).reshape(-1)[:n]


def rounded_stochastically(x, random):
    """float64 -> bits of bfloat16: the neighbour above |x| where |x|'s distance from the one below, in 2^-16 of the
    gap, and the random number sum to 2^16; else the one below."""
    single = np.asarray(x).astype(np.float32)
    below = single.view(np.uint32) >> 16
    part = single.view(np.uint32) & 0xFFFF
    bits = np.where(part + random >= 1 << 16, below + 1, below)
    return np.where(np.isfinite(single), bits, bits_of(single)).astype(np.uint16)


# The bits of the new weights are whole numbers, which a small change of a weight may change by 1. The bound for sums of
# a hundred is below 1 (0.2 for 2^16), but above 1 where one of the eight draws of `sensitivity` changed them.
@kernel(
    "adamw_bf16",
    shapes=[*DECAYED, {"N": 67, "n_decay": 5, "seed": -1}],
    scalars={"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "seed": 1234567890123},
    inputs={
        **STEPS,
        "step": lambda rng, s: [1 + s.N % 5 + (s.N % 2 << 33)],
        "w": lambda rng, s: bits_of(rng.standard_normal(s.N)),
        "v": lambda rng, s: rng.standard_normal(s.N) ** 2,
        "g": lambda rng, s: float_of(bits_of(rng.standard_normal(s.N))),
    },
    summands=lambda s: 100,
)
def adamw_bf16(w, m, v, g, lr, step, grad_scale, beta1, beta2, eps, weight_decay, n_decay, N, seed):
    new = adamw(float_of(w), m, v, g, lr, step, grad_scale, beta1, beta2, eps, weight_decay, n_decay, N)
    return new | {"w": rounded_stochastically(new["w"], rounding_bits(N, int(step[0]), seed))}


@kernel("sgd", shapes=DECAYED, scalars={"momentum": 0.9, "weight_decay": 0.1}, inputs=STEPS, summands=lambda s: 1)
def sgd(w, m, g, lr, grad_scale, momentum, weight_decay, n_decay, N):
    m = momentum * m + g * grad_scale + np.where(np.arange(N) < n_decay, weight_decay * w, 0)
    return {"w": w - lr * m, "m": m}


@kernel("gradient_norm", shapes=[(n,) for n in LENGTHS], scalars={"max_norm": [0.0, 0.5, 1e9]})
def gradient_norm(g, max_norm):
    norm = np.sqrt((g * g).sum())
    clips = max_norm > 0 and np.isfinite(norm)
    return {"norm": norm, "scale": min(1.0, max_norm / (norm + 1e-6)) if clips else 1.0}

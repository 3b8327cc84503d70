"""csrc/adamw.c, csrc/sgd.c, csrc/gradient_norm.c"""

import numpy as np

from kernels.harness import LENGTHS, kernel

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


@kernel("sgd", shapes=DECAYED, scalars={"momentum": 0.9, "weight_decay": 0.1}, inputs=STEPS, summands=lambda s: 1)
def sgd(w, m, g, lr, grad_scale, momentum, weight_decay, n_decay, N):
    m = momentum * m + g * grad_scale + np.where(np.arange(N) < n_decay, weight_decay * w, 0)
    return {"w": w - lr * m, "m": m}


@kernel("gradient_norm", shapes=[(n,) for n in LENGTHS], scalars={"max_norm": [0.0, 0.5, 1e9]})
def gradient_norm(g, max_norm):
    norm = np.sqrt((g * g).sum())
    clips = max_norm > 0 and np.isfinite(norm)
    return {"norm": norm, "scale": min(1.0, max_norm / (norm + 1e-6)) if clips else 1.0}

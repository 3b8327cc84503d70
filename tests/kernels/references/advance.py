"""csrc/advance.c"""

import numpy as np

from kernels.harness import kernel


@kernel(
    "advance",
    shapes=[(1, 1), (1, 5), (7, 3), (40, 17)],
    inputs={
        "positions": lambda rng, s: rng.integers(0, 100, s.S),
        "lengths": lambda rng, s: rng.integers(0, 100, s.S),
        "drawn_at": lambda rng, s: rng.integers(0, 2**40, s.S),
        "text": lambda rng, s: rng.integers(0, 100, (s.S, s.L)),
        "tokens": lambda rng, s: rng.integers(0, 100, s.S),
    },
)
def advance(positions, lengths, drawn_at, text, tokens, S, L):
    text = text.copy()
    if L:
        text[np.arange(S), drawn_at % L] = tokens
    return {"positions": positions + 1, "lengths": lengths + 1, "drawn_at": drawn_at + 1, "text": text}

"""csrc/dropout.c"""

import numpy as np

from kernels.harness import LENGTHS, kernel

WORD = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10. counter (4, ...), key (2) of 32-bit words -> (4, ...)"""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c0, c1, c2, c3 = (
            high1 ^ c1 ^ np.uint64(k0),
            p1 & np.uint64(WORD),
            high0 ^ c3 ^ np.uint64(k1),
            p0 & np.uint64(WORD),
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return np.array([c0, c1, c2, c3])


def words(n, counter, seed, stream):
    """The random word of each of n elements: of 64 elements, number 16 w + b has word w of counter b."""
    blocks = np.arange(-(-n // 64) * 16)
    same = [np.full(blocks.shape, value) for value in (stream, counter & WORD, (counter >> 32) & WORD)]
    drawn = philox([blocks, *same], (seed & WORD, (seed >> 32) & WORD))
    return drawn.reshape(4, -1, 16).transpose(1, 0, 2).reshape(-1)[:n]


def factors(n, counter, p, seed, stream):
    kept = words(n, int(counter[0]), seed, stream) >= min(int(p * 2**32 + 0.5), WORD)
    return kept / (1 - p) if p < 1 else np.zeros(n)


CASES = {
    "shapes": [{"N": n} for n in LENGTHS],
    "scalars": {"p": [0.1, 0.5], "seed": 1234567890123, "stream": 7},
    "inputs": {"counter": lambda rng, s: [5_000_000_000 + s.N]},
}
EXTREMES = [{"N": 67, "p": p, "seed": -1, "stream": 0xFFFFFFFF} for p in (0.0, 1.0, 1e-12)]
CASES["shapes"] += EXTREMES


@kernel("dropout_forward", **CASES)
def dropout_forward(x, residual, counter, p, seed, stream, N):
    return {"y": x * factors(N, counter, p, seed, stream) + (0 if residual is None else residual)}


@kernel("dropout_backward", forward="dropout_forward", **CASES)
def dropout_backward(dy, counter, p, seed, stream, N):
    return {"dx": dy * factors(N, counter, p, seed, stream)}

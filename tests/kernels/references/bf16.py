"""csrc/bf16.c, with bfloat16 as its bits. The nearer one of two neighbours is found by distance, not by a carry."""

import numpy as np

from kernels.harness import LENGTHS, kernel


def float_of(bits):
    """bits of bfloat16 -> float64"""
    with np.errstate(invalid="ignore"):  # of signalling NaN
        return (np.asarray(bits, np.uint32) << 16).view(np.float32).astype(np.float64)


def bits_of(x):
    """float64 -> bits of the nearest bfloat16, of two equally near ones the even"""
    single = np.asarray(x).astype(np.float32)
    below = single.view(np.uint32) >> 16  # towards zero
    with np.errstate(invalid="ignore"):
        x = single.astype(np.float64)
    above = below + 1
    with np.errstate(invalid="ignore"):
        beyond = np.where(above & 0x7FFF == 0x7F80, np.copysign(2.0**128, x), float_of(above))
        down, up = np.abs(x - float_of(below)), np.abs(beyond - x)
    bits = np.where((up < down) | ((up == down) & (below % 2 == 1)), above, below)
    bits = np.where(np.isinf(x), below, bits)
    return np.where(np.isnan(x), below | 0x40, bits).astype(np.uint16)


# The result is a whole number of 16 bits: a bound below one.
@kernel("to_bf16", shapes=[(n,) for n in LENGTHS], summands=lambda s: 1)
def to_bf16(x):
    return {"y": bits_of(x)}


@kernel(
    "from_bf16",
    shapes=[(n,) for n in LENGTHS],
    inputs={"x": lambda rng, s: rng.integers(0, 2, s.N) << 15 | rng.integers(0, 0x7F80, s.N)},
)
def from_bf16(x):
    return {"y": float_of(x)}

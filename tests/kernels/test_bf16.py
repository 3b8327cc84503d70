"""What the rows of bf16 do not say: every value there and back, and the rounding at its edges, in every variant."""

import numpy as np
import pytest

from gollm import _native
from kernels.harness import FLOAT_BUILDS, real_of, using
from kernels.references.bf16 import bits_of, float_of

EVERY = np.arange(2**16, dtype=np.uint16)


def rounded(x):
    y = np.empty(x.shape, np.uint16)
    _native.to_bf16(y=y, x=x)
    return y


@pytest.mark.parametrize("build", FLOAT_BUILDS)
def test_every_value_comes_back(build):
    with using(build, 2):
        wide = np.empty(EVERY.shape, real_of(build))
        _native.from_bf16(y=wide, x=EVERY)
        np.testing.assert_array_equal(wide, float_of(EVERY))  # NaN equals NaN here
        back = rounded(wide)
    nan = np.isnan(wide)
    np.testing.assert_array_equal(back[~nan], EVERY[~nan])
    assert np.isnan(float_of(back[nan])).all()


@pytest.mark.parametrize("build", FLOAT_BUILDS)
def test_rounding_at_ties_and_next_to_them(build):
    """Between every two neighbours: the tie, and the floats just below and above it."""
    bits = EVERY.astype(np.uint32) << 16
    for low in (0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        with np.errstate(invalid="ignore"):
            x = (bits | np.uint32(low)).view(np.float32).astype(real_of(build))
        with using(build, 2):
            np.testing.assert_array_equal(rounded(x), bits_of(x))


def test_known_values():
    """1 + 1/256 is a tie to even, down; 1 + 3/256 one, up; the largest float is beyond the largest bfloat16."""
    x = np.array([1, 1 + 1 / 256, 1 + 3 / 256, -0.0, 3.4028235e38, np.inf, -np.inf], np.float32)
    assert [hex(bits) for bits in rounded(x)] == ["0x3f80", "0x3f80", "0x3f82", "0x8000", "0x7f80", "0x7f80", "0xff80"]

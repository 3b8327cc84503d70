"""Packing and rounding of quantised weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.errors import ConfigError
from gollm.nn import dtypes
from gollm.quantisation import GROUPS, Codes, dequantise, pack, packed_shape, quantise, unpack

KINDS = [(dtype, group) for dtype, groups in GROUPS.items() for group in groups]
LEVELS = {dtypes.int8: 256, dtypes.int4: 16, dtypes.int4_min: 16}
sizes = st.one_of(st.integers(1, 70), st.sampled_from([128, 129, 200]))


def codes_of(dtype, group, N, K, seed=0):
    rng = np.random.default_rng(seed)
    groups = -(-K // group)
    half = lambda: rng.standard_normal((N, groups)).astype("<f2")  # noqa: E731
    codes = rng.integers(0, LEVELS[dtype], (N, K)).astype(np.uint8)
    return Codes(dtype, group, codes, half(), half() if dtype is dtypes.int4_min else None)


def meaning(weight):
    """The numbers, one by one as the layout's definition says."""
    N, K = weight.codes.shape
    out = np.empty((N, K), np.float32)
    for n in range(N):
        for k in range(K):
            scale, code = np.float32(weight.scales[n, k // weight.group]), np.float32(weight.codes[n, k])
            if weight.dtype is dtypes.int4_min:
                out[n, k] = code * scale + np.float32(weight.minimums[n, k // weight.group])
            else:
                out[n, k] = (code - (128 if weight.dtype is dtypes.int8 else 8)) * scale
    return out


@pytest.mark.parametrize(("dtype", "group"), KINDS, ids=lambda value: str(value))
@given(N=sizes, K=sizes, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_packed_codes_come_back(dtype, group, N, K, seed):
    weight = codes_of(dtype, group, N, K, seed)
    packed = pack(weight)
    assert packed.shape == (N, K)
    assert packed.array.shape == packed_shape(dtype, (N, K), group)
    back = unpack(packed)
    assert back.group == group
    np.testing.assert_array_equal(back.codes, weight.codes)
    np.testing.assert_array_equal(back.scales, weight.scales)
    if weight.minimums is not None:
        np.testing.assert_array_equal(back.minimums, weight.minimums)


@pytest.mark.parametrize(("dtype", "group"), KINDS, ids=lambda value: str(value))
def test_each_byte_is_where_the_layout_says(dtype, group):
    N, K = 37, 2 * group + 5
    weight = codes_of(dtype, group, N, K)
    bytes_ = pack(weight).array
    heads = 128 if dtype is dtypes.int4_min else 64
    for n in range(N):
        for k in range(K):
            block = bytes_[n // 32, k // group]
            i, row = k % group, n % 32
            assert block[2 * row : 2 * row + 2].view("<f2")[0] == weight.scales[n, k // group]
            if dtype is dtypes.int8:
                code = block[heads + (i // 4 * 32 + row) * 4 + i % 4]
            else:
                byte = block[heads + (i // 8 * 32 + row) * 4 + i % 4]
                code = byte & 15 if i % 8 < 4 else byte >> 4
            assert code == weight.codes[n, k]
    np.testing.assert_array_equal(dequantise(pack(weight)), meaning(weight))


@pytest.mark.parametrize(("dtype", "group"), KINDS, ids=lambda value: str(value))
@given(N=sizes, K=sizes, seed=st.integers(0, 99), size=st.sampled_from([1e-30, 1e-7, 1e-3, 1.0, 60000.0]))
@settings(max_examples=25, deadline=None)
def test_rounding_is_as_near_as_the_codes_allow(dtype, group, N, K, seed, size):
    """No number is further off than half a step, and a half-precision scale's own error, from it."""
    w = np.random.default_rng(seed).uniform(-size, size, (N, K)).astype(np.float32)
    found = dequantise(quantise(w, dtype, group))
    padded = np.zeros((N, -(-K // group) * group), np.float32)
    padded[:, :K] = w
    groups = padded.reshape(N, -1, group)
    most = np.abs(groups).max(-1)
    if dtype is dtypes.int8:
        step = most / 111
    elif dtype is dtypes.int4:
        step = most / 6.5
    else:
        step = (groups.max(-1) - groups.min(-1)) / 15 + most * 2**-10
    # A scale is rounded to 11 bits, or to a multiple of 2^-24: times the largest code.
    largest = {dtypes.int8: 127, dtypes.int4: 8, dtypes.int4_min: 15}[dtype]
    bound = np.repeat(0.51 * step + most * 2**-10 + largest * 2.0**-24, group, axis=1)[:, :K]
    if dtype is not dtypes.int4_min:
        bound = bound * 2.1  # the scale with the least squares may move the largest number by a step
    assert (np.abs(found - w) <= bound).all()


@pytest.mark.parametrize(("dtype", "code"), [(dtypes.int8, 127), (dtypes.int4, -8)], ids=str)
def test_the_least_squares_are_no_worse_than_by_the_largest_number(dtype, code):
    w = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    groups = w.reshape(-1, 32)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(-1)[:, None], 1)
    scale = (extreme / code).astype("<f2").astype(np.float32)
    plain = np.square(np.clip(np.rint(groups / scale), -abs(code), 127 if code == 127 else 7) * scale - groups)
    ours = np.square(dequantise(quantise(w, dtype)).reshape(-1, 32) - groups)
    assert (ours.sum(-1) < 1.02 * plain.sum(-1)).all()
    assert ours.mean() < (0.8 if dtype is dtypes.int8 else 0.9) * plain.mean()


def test_zeros_stay_zeros():
    for dtype in GROUPS:
        assert not dequantise(quantise(np.zeros((3, 40), np.float32), dtype)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70000.0])
@pytest.mark.parametrize("dtype", GROUPS, ids=str)
def test_numbers_without_a_scale_are_refused(dtype, value):
    w = np.ones((2, 33), np.float32)
    w[1, 32] = value
    with pytest.raises(ConfigError, match="65504"):
        quantise(w, dtype)


def test_a_group_that_a_dtype_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"48; for int8 it must be 32 or 64 or 128"):
        quantise(np.ones((2, 48), np.float32), dtypes.int8, 48)
    with pytest.raises(ConfigError, match="int4 it must be 32"):
        quantise(np.ones((2, 64), np.float32), dtypes.int4, 64)

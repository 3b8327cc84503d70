"""Products with quantised weights: their bits, their integers, and how activations are quantised."""

import itertools

import numpy as np
import pytest

from gollm import _native
from gollm.errors import GollmError, KernelError, ShapeError
from kernels.harness import BUILDS, real_of, rng_of, using
from kernels.references.quantized import HALVES, STEPS, block_bytes, quantize, random_weight, unpack

KINDS = [("int8", 32), ("int8", 64), ("int8", 128), ("int4", 32), ("int4_min", 32)]
kinds = pytest.mark.parametrize(("kind", "group"), KINDS, ids=lambda value: str(value))


@pytest.fixture(params=BUILDS)
def build(request):
    with using(request.param, 2):
        yield request.param


def product(kind, group, a, b, N, **others):
    c = np.full((len(a), N), np.nan, a.dtype)
    scalars = {"activation": 0} | ({"group": group} if kind == "int8" else {})
    getattr(_native, f"matmul_{kind}")(c=c, a=a, b=b, **(scalars | others))
    return c


@kinds
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batch_threads_and_columns_do_not_change_a_bit(build, kind, group, threads):
    (M, N, K), rng = (37, 150, 300), rng_of(kind, group)
    a, b = rng.standard_normal((M, K)).astype(real_of(build)), random_weight(kind, rng, N, K, group)
    whole = product(kind, group, a, b, N)
    with using(build, threads):
        for m, n in itertools.product((1, 2, 3, 4, 5, 7, 8, 9, 16, 31), (1, 32, 49, 150)):
            part = product(kind, group, a[5 : 5 + m], b[: (n + 31) // 32], n)
            assert part.tobytes() == whole[5 : 5 + m, :n].tobytes(), (m, n)


@kinds
def test_sums_inside_a_group_are_exact(kind, group):
    """With powers of 2 as scales, only a group's sum (with int8, past 2^24) and the sum over groups are rounded: all
    variants give what integers give, at their largest too."""
    M, N, K = 29, 70, 2 * group + 3  # so many rows that AMX multiplies them in tiles
    rng = rng_of(kind, group, "exact")
    groups = (K + group - 1) // group
    b = random_weight(kind, rng, N, K, group)
    b[1, :, HALVES[kind] * 64 :] = 0xFF  # the largest codes
    b[2, :, HALVES[kind] * 64 :] = 0
    halves = np.repeat(2.0 ** rng.integers(-3, 4, (3, 1, HALVES[kind] * 32)), groups, axis=1)
    b[..., : HALVES[kind] * 64] = halves.astype(np.float16).view(np.uint8).reshape(3, groups, -1)
    steps = STEPS[kind]
    codes = rng.integers(-steps, steps + 1, (M, groups, group))
    codes[0] = steps
    codes[1] = -steps
    codes[:, :, 0] = steps
    exponents = rng.integers(-4, 5, (M, 1, 1)) + rng.integers(0, 2, (M, groups, 1))
    a = (codes * 2.0**exponents).reshape(M, -1)[:, :K]
    q, scales = quantize(kind, a, group)
    w, weight_scales, minimums = unpack(kind, b, group)
    for build in BUILDS:
        real = real_of(build)
        want = np.zeros((M, w.shape[0]), real)
        for g in range(groups):
            sums = (q[:, g] @ w[:, g].T).astype(real)
            want += sums * np.outer(scales[:, g], weight_scales[:, g]).astype(real)
            want += np.outer(scales[:, g] * q[:, g].sum(-1), minimums[:, g]).astype(real)
        with using(build, 2):
            got = product(kind, group, a.astype(real), b, N)
            one = product(kind, group, a[:1].astype(real), b, N)
        assert (got == want[:, :N]).all(), build
        assert (one == want[:1, :N]).all(), build


def one_output(kind, group, weights):
    """A weight of one output: its integers (group), with a scale of 1 and a minimum of 0."""
    b = np.zeros((1, 1, block_bytes(kind, group)), np.uint8)
    b[..., :2] = np.ones(1, np.float16).view(np.uint8)
    codes = b[0, 0, HALVES[kind] * 64 :]
    for i, w in enumerate(weights):
        if kind == "int8":
            codes[i // 4 * 128 + i % 4] = w + 128
        else:
            codes[i // 8 * 128 + i % 4] |= (w + (8 if kind == "int4" else 0)) << (i % 8 // 4 * 4)
    return b


@kinds
def test_activations_are_rounded_to_the_nearest_code_and_ties_to_even(build, kind, group):
    steps = STEPS[kind]
    values = [steps, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 0.51, steps - 0.5, 0.5 - steps, 3.0]
    codes = [steps, 0, 2, 2, 0, -2, -2, 0, 1, steps - 1, 1 - steps, 3]
    a = np.zeros((1, group), real_of(build))
    a[0, : len(values)] = values
    for i, code in enumerate(codes):
        weights = np.zeros(group, int)
        weights[i] = 1
        got = product(kind, group, a, one_output(kind, group, weights), 1)
        assert got[0, 0] == code


@kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_and_its_neighbours_are_not(build, kind, group, value):
    rng = rng_of(kind, "nonfinite")
    a, b = rng.standard_normal((5, 200)).astype(real_of(build)), random_weight(kind, rng, 40, 200, group)
    clean = product(kind, group, a, b, 40)
    for k in (0, 77, 199):
        odd = a.copy()
        odd[2, k] = value
        got = product(kind, group, odd, b, 40)
        assert np.isnan(got[2]).all()
        others = [0, 1, 3, 4]
        assert got[others].tobytes() == clean[others].tobytes()
        assert np.isnan(product(kind, group, odd[2:3], b, 40)).all()


@kinds
def test_zeros_and_numbers_near_zero(build, kind, group):
    """A group whose largest activation has no finite inverse counts as zeros."""
    real = real_of(build)
    b = random_weight(kind, rng_of(kind, "zeros"), 32, group, group)
    for value in (0.0, np.finfo(real).smallest_subnormal, np.finfo(real).tiny):
        got = product(kind, group, np.full((2, group), value, real), b, 32)
        assert (got == 0).all()
    tiny = product(kind, group, np.full((2, group), np.finfo(real).tiny * (STEPS[kind] + 1), real), b, 32)
    assert np.isfinite(tiny).all() and (tiny != 0).any()


@pytest.mark.parametrize("group", [-(2**63), -32, -1, 0, 1, 16, 31, 33, 96, 256, 2**31, 2**63 - 1])
def test_other_groups_are_refused(build, group):
    real = real_of(build)
    a, table = np.ones((2, 64), real), np.zeros((1, 2, 64 + 32 * 32), np.uint8)
    with pytest.raises(GollmError):
        product("int8", group, a, table, 32)
    with pytest.raises(GollmError):
        _native.embedding_int8(y=a, tokens=np.zeros(2, np.int32), token_table=table, V=32, group=group)
    if 0 < group < 2**31:  # blocks of that group, as long as memory for them is small
        blocks = np.zeros((1, (64 + group - 1) // group, 64 + 32 * group), np.uint8) if group <= 256 else table
        with pytest.raises(KernelError if group <= 256 else ShapeError):
            product("int8", group, a, blocks, 32)


@pytest.mark.parametrize(("kind", "group"), KINDS[2:])
def test_token_ids_outside_of_the_table_are_refused(build, kind, group):
    table = random_weight(kind, rng_of(kind), 40, 70, group)
    scalars = {"V": 40} | ({"group": group} if kind == "int8" else {})
    for token in (-1, 40, 63, 2**31 - 1):
        with pytest.raises(KernelError, match="outside"):
            getattr(_native, f"embedding_{kind}")(
                y=np.zeros((2, 70), real_of(build)), tokens=np.array([0, token], np.int32), token_table=table, **scalars
            )
    for V in (-1, 0, 32, 65, 2**62):  # another number of panels
        with pytest.raises(GollmError):
            getattr(_native, f"embedding_{kind}")(
                y=np.zeros((1, 70), real_of(build)),
                tokens=np.zeros(1, np.int32),
                token_table=table,
                **(scalars | {"V": V}),
            )

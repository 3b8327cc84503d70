"""The products' bits depend on nothing but their rows and columns."""

import itertools

import numpy as np
import pytest

from gollm import _native
from gollm.errors import DTypeError, GollmError, KernelError
from kernels.harness import BUILDS, real_of, rng_of, using
from kernels.references.bf16 import bits_of, float_of
from kernels.references.matmul import BFLOAT16, FLOAT32


@pytest.fixture(params=BUILDS)
def build(request):
    with using(request.param, 2):
        yield request.param


@pytest.mark.parametrize("compute", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(
    "shape", [(9, 16, 5), (26, 15, 259), (40, 33, 700), (200, 600, 300), (70, 2100, 600), (420, 40, 2300)]
)
def test_layout_batch_and_chunks_do_not_change_a_bit(build, shape, compute):
    (M, N, K), real, rng = shape, real_of(build), rng_of("matmul", shape)
    a, b = rng.standard_normal((M, K)).astype(real), rng.standard_normal((N, K)).astype(real)
    a_t, b_t = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    nt, nn, tn, rows, chunks = (np.zeros((M, N), real) for _ in range(5))
    _native.matmul_nt(c=nt, a=a, b=b, activation=0, compute=compute)
    _native.matmul_nn(c=nn, a=a, b=b_t, activation=0, compute=compute)
    _native.matmul_tn(c=tn, a=a_t, b=b_t, compute=compute)
    i = 0
    for height in itertools.cycle((1, 2, 3, 4, 7, 8)):  # some rows alone
        if i >= M:
            break
        _native.matmul_nt(c=rows[i : i + height], a=a[i : i + height], b=b, activation=0, compute=compute)
        i += height
    for k in range(0, K, 256):  # the blocks of k one by one
        _native.matmul_tn(c=(chunks, True), a=a_t[k : k + 256], b=b_t[k : k + 256], compute=compute)
    for other in (nn, tn, rows, chunks):
        assert other.tobytes() == nt.tobytes()


def odd_values(shape):
    """Normal numbers, some of them as operands of bfloat16 do not have them."""
    rng = rng_of("odd", shape)
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-23], np.float32)
    x.reshape(-1)[rng.permutation(x.size)[: len(ties)]] = ties
    return x


@pytest.mark.parametrize("shape", [(9, 40, 333), (70, 40, 33)])
def test_operands_are_rounded_to_bfloat16(build, shape):
    """Operands and what they are rounded to give the same bits: those of the float product, where the variant has no
    instructions for bfloat16."""
    (M, N, K), real = shape, real_of(build)
    operands = [("nt", (M, K), (N, K)), ("nn", (M, K), (K, N)), ("tn", (K, M), (K, N))]
    for name, of_a, of_b in operands:
        kernel, more = getattr(_native, f"matmul_{name}"), {} if name == "tn" else {"activation": 0}
        a, b = odd_values(of_a).astype(real), odd_values(of_b).astype(real)
        rounded = {"a": float_of(bits_of(a)).astype(real), "b": float_of(bits_of(b)).astype(real)}
        given, again, plain = (np.full((M, N), np.nan, real) for _ in range(3))
        kernel(c=given, a=a, b=b, compute=BFLOAT16, **more)
        kernel(c=again, **rounded, compute=BFLOAT16, **more)
        kernel(c=plain, **rounded, compute=FLOAT32, **more)
        assert given.tobytes() == again.tobytes()
        if build in ("avx512bf16", "amx"):
            np.testing.assert_allclose(given, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
        else:
            assert given.tobytes() == plain.tobytes()


def test_beyond_the_largest_bfloat16_is_infinity(build):
    real = real_of(build)
    a, c = (
        np.array([[3.3961776e38, 1.0], [3.39e38, 1.0], [np.nan, 1.0]], np.float32).astype(real),
        np.empty((3, 1), real),
    )
    _native.matmul_nt(c=c, a=a, b=np.ones((1, 2), real), activation=0, compute=BFLOAT16)
    np.testing.assert_array_equal(np.isinf(c[:, 0]), [True, False, False])
    assert np.isnan(c[2, 0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("M", [1, 2, 3, 5, 8, 9, 29, 800])
def test_a_packed_weight_does_not_change_a_bit(build, M, threads):
    (N, K), real, rng = (145, 700), real_of(build), rng_of("packed", M)
    shapes = {"a": (M, K), "bias": (N,), "factor": (M, N), "residual": (M, N)}
    given = {name: rng.standard_normal(shape).astype(real) for name, shape in shapes.items()} | {"activation": 4}
    b, packed = rng.standard_normal((N, K)).astype(real), np.full((5, K, 32), np.nan, real)
    c, pre, plain, c_packed, pre_packed, plain_packed = (np.zeros((M, N), real) for _ in range(6))
    with using(build, threads):
        _native.pack_weight(packed=packed, w=b)
        _native.matmul_nt(c=c, b=b, pre=pre, **given, compute=FLOAT32)
        _native.matmul_packed(c=c_packed, b=packed, pre=pre_packed, **given)
        _native.matmul_nt(c=plain, a=given["a"], b=b, activation=0, compute=FLOAT32)
        _native.matmul_packed(c=plain_packed, a=given["a"], b=packed, activation=0)
    assert c_packed.tobytes() == c.tobytes()
    assert pre_packed.tobytes() == pre.tobytes()
    assert plain_packed.tobytes() == plain.tobytes()


def test_all_variants_read_the_same_packed_weight():
    w, packed = rng_of("packed").standard_normal((75, 130)).astype(np.float32), []
    for build in BUILDS[:-1]:
        with using(build, 2):
            packed.append(np.full((3, 130, 32), np.nan, np.float32))
            _native.pack_weight(packed=packed[-1], w=w)
    assert len({array.tobytes() for array in packed}) == 1


def test_an_unknown_activation_is_refused(build):
    one = np.ones((1, 1), real_of(build))
    for kind in (-1, 5):
        with pytest.raises(KernelError, match="range"):
            _native.matmul_nt(c=one.copy(), a=one, b=one, activation=kind, compute=FLOAT32)


def test_an_unknown_compute_dtype_is_refused(build):
    one = np.ones((1, 1), real_of(build))
    for compute in (-1, 1, 3):  # 1 is GOLLM_FLOAT64
        refused(_native.matmul_nt, c=one.copy(), a=one, b=one, activation=0, compute=compute)
        refused(_native.matmul_nn, c=one.copy(), a=one, b=one, activation=0, compute=compute)
        refused(_native.matmul_tn, c=one.copy(), a=one, b=one, compute=compute)


GATE = ("factor", "dfactor", "product")


def refused(kernel, **arguments):
    with pytest.raises(KernelError, match="range"):
        kernel(**arguments)


def test_a_gates_gradient_needs_all_of_its_arguments(build):
    one = np.ones((1, 1), real_of(build))
    for n in (1, 2, 3):
        for names in itertools.combinations(GATE, n):
            gate = {name: one.copy() for name in names}
            refused(_native.matmul_nn, c=one.copy(), a=one, b=one, activation=4, compute=FLOAT32, **gate)  # without pre
            if n < 3:
                refused(_native.matmul_nn, c=one.copy(), a=one, b=one, pre=one, activation=4, compute=FLOAT32, **gate)


def test_nothing_is_added_to_where_there_is_an_epilogue(build):
    one = np.ones((1, 1), real_of(build))
    for gate in ({}, {name: one.copy() for name in GATE}):
        refused(_native.matmul_nn, c=(one.copy(), True), a=one, b=one, pre=one, activation=4, compute=FLOAT32, **gate)
        refused(_native.matmul_nn, c=None, a=one, b=one, pre=one, activation=4, compute=FLOAT32, **gate)
    with pytest.raises(DTypeError):
        _native.matmul_nt(c=(one.copy(), True), a=one, b=one, activation=0, compute=FLOAT32)
    with pytest.raises(GollmError):
        _native.matmul_nt(a=one, b=one, pre=one.copy(), activation=0, compute=FLOAT32)  # without c
    with pytest.raises(GollmError):
        _native.matmul_nt(
            c=one, a=one.copy(), b=one.copy(), residual=one, activation=0, compute=FLOAT32
        )  # sums wait in c


def test_nothing_is_added_to_a_destination_that_is_not_there(build):
    one, s = (np.ones((1, 1), real_of(build)) for _ in range(2))
    _native.matmul_nn(c=(None, True), a=one, b=one, activation=0, compute=FLOAT32)
    _native.matmul_tn(c=(None, True), a=one, b=one, a_sum=(s[0], True), compute=FLOAT32)
    assert s == 2

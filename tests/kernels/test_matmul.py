"""The products' bits depend on nothing but their rows and columns."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels.harness import BUILDS, real_of, rng_of, using


@pytest.fixture(params=BUILDS)
def build(request):
    with using(request.param, 2):
        yield request.param


@pytest.mark.parametrize("shape", [(40, 33, 700), (200, 600, 300)])
def test_layout_batch_and_chunks_do_not_change_a_bit(build, shape):
    (M, N, K), real, rng = shape, real_of(build), rng_of("matmul", shape)
    a, b = rng.standard_normal((M, K)).astype(real), rng.standard_normal((N, K)).astype(real)
    a_t, b_t = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    nt, nn, tn, rows, chunks = (np.zeros((M, N), real) for _ in range(5))
    _native.matmul_nt(c=nt, a=a, b=b, activation=0)
    _native.matmul_nn(c=nn, a=a, b=b_t, activation=0)
    _native.matmul_tn(c=tn, a=a_t, b=b_t)
    for i in range(0, M, 7):  # some rows alone
        _native.matmul_nt(c=rows[i : i + 7], a=a[i : i + 7], b=b, activation=0)
    for k in range(0, K, 256):  # the blocks of k one by one
        _native.matmul_tn(c=(chunks, True), a=a_t[k : k + 256], b=b_t[k : k + 256])
    for other in (nn, tn, rows, chunks):
        assert other.tobytes() == nt.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_where_the_sums_of_blocks_of_k_wait_does_not_change_a_bit(build, threads):
    """In c, in pre, or in the workspace: three blocks of k, with an epilogue, by what of it is there."""
    (M, N, K), real, rng = (29, 145, 700), real_of(build), rng_of("matmul", "sums")
    shapes = {"a": (M, K), "b": (N, K), "bias": (N,), "factor": (M, N), "residual": (M, N)}
    given = {name: rng.standard_normal(shape).astype(real) for name, shape in shapes.items()} | {"activation": 4}
    c, pre, with_pre, shared, shared_with_pre, pre_alone, added = (np.zeros((M, N), real) for _ in range(7))
    with using(build, threads):
        _native.matmul_nt(c=c, **given)
        _native.matmul_nt(c=with_pre, pre=pre, **given)
        for to, also in [(shared, {}), (shared_with_pre, {"pre": pre})]:
            to[...] = given["residual"]
            _native.matmul_nt(c=to, **given | {"residual": to}, **also)
        _native.matmul_nt(pre=pre_alone, **given)
        _native.matmul_nt(c=(added, True), **given)
    for other in (with_pre, shared, shared_with_pre, added):
        assert other.tobytes() == c.tobytes()
    assert pre.tobytes() == pre_alone.tobytes()


def test_an_unknown_activation_is_refused(build):
    one = np.ones((1, 1), real_of(build))
    for kind in (-1, 5):
        with pytest.raises(KernelError, match="range"):
            _native.matmul_nt(c=one.copy(), a=one, b=one, activation=kind)


def test_a_gates_gradient_is_refused_without_what_the_gate_was_applied_to(build):
    one = np.ones((1, 1), real_of(build))
    for name in ("dfactor", "product"):
        with pytest.raises(KernelError, match="range"):
            _native.matmul_nn(c=one.copy(), a=one, b=one, activation=4, **{name: one.copy()})


def test_nothing_is_added_to_a_destination_that_is_not_there(build):
    one, d, s = (np.ones((1, 1), real_of(build)) for _ in range(3))
    _native.matmul_nt(c=(None, True), a=one, b=one, pre=d, activation=0)
    assert d == 1
    _native.matmul_nn(c=(None, True), a=one, b=one, pre=one, dfactor=d, activation=3)
    assert d == 1
    _native.matmul_tn(c=(None, True), a=one, b=one, a_sum=(s[0], True))
    assert s == 2

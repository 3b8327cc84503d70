"""The fused head: one loss in both directions, and what it refuses."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels.harness import BUILDS, real_of, rng_of, using
from kernels.references.bf16 import bits_of, float_of
from kernels.references.head import losses_and_error
from kernels.references.matmul import BFLOAT16, FLOAT32

computes = pytest.mark.parametrize("compute", [FLOAT32, BFLOAT16])


@pytest.fixture(params=BUILDS)
def build(request):
    with using(request.param, 2):
        yield request.param


def problem(build, N, C, V, compute=FLOAT32):
    rng, real = rng_of("head", N, C, V), real_of(build)
    return {
        "x": rng.standard_normal((N, C)).astype(real),
        "w": rng.standard_normal((V, C)).astype(real) / np.sqrt(C).astype(real),
        "targets": rng.integers(0, V, N).astype(np.int32),
        "denominator": np.array([float(N)]),
        "ignore_index": -1,
        "compute": compute,
    }


def forward(given):
    loss, losses = np.zeros(1, given["x"].dtype), np.zeros(len(given["x"]), given["x"].dtype)
    _native.head_forward(loss=loss, losses=losses, **given)
    return loss, losses


def backward(given, dw=None):
    real = given["x"].dtype
    loss, losses, dx = np.zeros(1, real), np.zeros(len(given["x"]), real), np.zeros_like(given["x"])
    accumulate = dw is not None
    dw = dw if accumulate else np.zeros_like(given["w"])
    dloss = np.full(1, 0.5, real)
    _native.head_backward(loss=loss, losses=losses, dx=dx, dw=(dw, accumulate), dloss=dloss, **given)
    return loss, losses, dx, dw


@computes
def test_the_training_pass_has_the_loss_of_the_forward_pass(build, compute):
    given = problem(build, 300, 33, 12000, compute)
    for a, b in zip(forward(given), backward(given)[:2], strict=True):
        assert a.tobytes() == b.tobytes()


@computes
def test_chunks_do_not_change_a_bit(build, compute):
    """Two calls over rows split at a multiple of 256 are one call: chunks inside fall on such multiples."""
    given = problem(build, 700, 20, 500, compute)
    whole = backward(given)
    parts = [given | {key: given[key][rows] for key in ("x", "targets")} for rows in (slice(0, 512), slice(512, 700))]
    first = backward(parts[0])
    second = backward(parts[1], dw=first[3])
    assert np.concatenate([first[1], second[1]]).tobytes() == whole[1].tobytes()
    assert np.concatenate([first[2], second[2]]).tobytes() == whole[2].tobytes()
    assert second[3].tobytes() == whole[3].tobytes()


@pytest.mark.parametrize("wrong", [-2, 7, 2**31 - 1])
def test_a_target_outside_of_the_vocabulary_is_refused(build, wrong):
    given = problem(build, 20, 3, 7)
    given["targets"][13] = wrong
    with pytest.raises(KernelError, match="token id"):
        forward(given)
    with pytest.raises(KernelError, match="token id"):
        backward(given)


def test_an_ignored_row_adds_nothing(build):
    given = problem(build, 20, 3, 7)
    given["targets"][5] = -1
    rest = given | {key: np.delete(given[key], 5, axis=0) for key in ("x", "targets")}
    with_it, without = backward(given), backward(rest)
    assert with_it[1][5] == 0
    assert not with_it[2][5].any()
    assert with_it[0] == without[0]
    np.testing.assert_allclose(with_it[3], without[3], rtol=1e-5, atol=1e-7)


def test_without_a_denominator_it_is_the_number_of_targets_that_count(build):
    given = problem(build, 20, 3, 7)
    given["targets"][[5, 11]] = -1
    for counted in (18.0, 1.0):  # at least 1, where none counts
        explicit, by_count = given | {"denominator": np.array([counted])}, given | {"denominator": None}
        for a, b in zip(forward(explicit), forward(by_count), strict=True):
            assert a.tobytes() == b.tobytes()
        for a, b in zip(backward(explicit), backward(by_count), strict=True):
            assert a.tobytes() == b.tobytes()
        given["targets"][:] = -1


def test_in_bfloat16_it_is_within_the_rounding_of_operands(build):
    """x and w have nothing to round here, and so the losses have float's bound. The gradient of the logits is rounded,
    each by one part in 2^9 at most, before it meets w and x: that many parts of the products of absolute values."""
    given = problem(build, 290, 37, 600, BFLOAT16)
    real = given["x"].dtype
    x, w = (float_of(bits_of(given[name])) for name in ("x", "w"))
    given |= {"x": x.astype(real), "w": w.astype(real)}
    _, losses, dx, dw = backward(given)
    want, error = losses_and_error(x, w, given["targets"])
    dlogits = error * 0.5 / given["denominator"]
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    for got, reference, bound in [
        (dx, dlogits @ w, np.abs(dlogits) @ np.abs(w)),
        (dw, dlogits.T @ x, np.abs(dlogits).T @ np.abs(x)),
    ]:
        assert (np.abs(got - reference) <= (2**-9 + 2**-16) * bound).all()
        assert np.abs(got - reference).max() > 2**-14 * bound.max()  # it was rounded


def test_an_unknown_compute_dtype_is_refused(build):
    with pytest.raises(KernelError, match="range"):
        forward(problem(build, 2, 3, 7, 1))
    with pytest.raises(KernelError, match="range"):
        backward(problem(build, 2, 3, 7, 1))

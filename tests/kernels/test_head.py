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


def backward(given, dw=None, dx=None):
    """Gradients that are given are added to."""
    real = given["x"].dtype
    loss, losses, dloss = np.zeros(1, real), np.zeros(len(given["x"]), real), np.full(1, 0.5, real)
    into_dw = (np.full_like(given["w"], np.nan), False) if dw is None else (dw, True)
    into_dx = (np.full_like(given["x"], np.nan), False) if dx is None else (dx, True)
    _native.head_backward(loss=loss, losses=losses, dx=into_dx, dw=into_dw, dloss=dloss, **given)
    return loss, losses, into_dx[0], into_dw[0]


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


@computes
@pytest.mark.parametrize("N", [20, 600])  # in one chunk, in several
def test_ignored_rows_are_as_if_they_were_not_there(build, compute, N):
    given = problem(build, N, 9, 9000, compute)
    counted = rng_of("ignored", N).random(N) < 0.6
    given["targets"][~counted] = -1
    given["x"][~counted] = np.nan
    rest = given | {key: given[key][counted] for key in ("x", "targets")}
    start = np.ones_like(given["x"])
    for dx in (None, start):
        with_them = backward(given, dx=None if dx is None else dx.copy())
        without = backward(rest, dx=None if dx is None else dx[counted])
        loss, losses, dx_with, dw = with_them
        assert (losses[~counted] == 0).all()
        assert (dx_with[~counted] == (0 if dx is None else 1)).all()
        for a, b in zip((loss, losses[counted], dx_with[counted], dw), without, strict=True):
            assert a.tobytes() == b.tobytes()
        assert forward(given)[1].tobytes() == losses.tobytes()


def test_nan_reaches_the_rows_that_count(build):
    given = problem(build, 20, 3, 7)
    given["targets"][5] = -1
    counted = given["targets"] >= 0
    clean = given["w"].copy()
    given["w"][2, 1] = np.nan
    loss, losses, dx, dw = backward(given)
    assert np.isnan(loss).all()
    assert np.isnan(dw).all()
    for array in (losses, dx):
        assert np.isnan(array[counted]).all()
        assert (array[~counted] == 0).all()
    given["w"], given["x"][8, 0] = clean, np.nan
    loss, losses, dx, dw = backward(given)
    assert np.isnan(loss).all()
    assert np.isnan(dw).all()
    for array in (losses, dx):
        assert np.isnan(array[8]).all()
        assert np.isfinite(np.delete(array, 8, axis=0)).all()


def test_where_no_row_counts_gradients_are_zero(build):
    given = problem(build, 20, 3, 7)
    given["targets"][:] = -1
    loss, losses, dx, dw = backward(given)
    assert not any(array.any() for array in (loss, losses, dx, dw))


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

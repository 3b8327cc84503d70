"""What the rows of the optimisers do not say: refused values, denormal moments, gradients that are not finite."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels.references.bf16 import bits_of, float_of

TINY = np.finfo(np.float32).tiny  # the smallest normal number


def arrays(n, **values):
    return {name: np.full(n, value, np.float32) for name, value in values.items()}


def adamw(state, *, lr=0.01, step=1, n_decay=0, beta2=0.95):
    _native.adamw(
        **state,
        lr=np.array([lr]),
        step=np.array([step]),
        grad_scale=np.ones(1),
        beta1=0.9,
        beta2=beta2,
        eps=1e-8,
        weight_decay=0.1,
        n_decay=n_decay,
    )


def adamw_bf16(w, *, lr, step=1, seed=1, n_decay=0):
    """A step from w (n) bits whose gradient is 1: each weight becomes w - lr before it is rounded."""
    one = np.ones(1)
    _native.adamw_bf16(
        w=w,
        **arrays(w.size, m=0, v=0, g=1),
        lr=np.array([lr]),
        step=np.array([step]),
        grad_scale=one,
        beta1=0.0,
        beta2=0.0,
        eps=0.0,
        weight_decay=0.1,
        n_decay=n_decay,
        seed=seed,
    )
    return float_of(w)


def sgd(state, *, n_decay=0):
    one = np.ones(1)
    _native.sgd(**state, lr=one, grad_scale=one, momentum=0.9, weight_decay=0.1, n_decay=n_decay)


@pytest.mark.parametrize("bad", [{"step": 0}, {"n_decay": -1}, {"n_decay": 6}])
def test_adamw_refuses(bad):
    state = arrays(5, w=1, m=0, v=0, g=1)
    with pytest.raises(KernelError, match="a value outside of its range"):
        adamw(state, **bad)
    assert (state["w"] == 1).all() and (state["v"] == 0).all()


@pytest.mark.parametrize("n_decay", [-1, 6])
def test_sgd_refuses(n_decay):
    with pytest.raises(KernelError, match="a value outside of its range"):
        sgd(arrays(5, w=1, m=0, g=1), n_decay=n_decay)


def test_moments_without_gradient_reach_zero_and_not_the_denormals():
    for sign in (1, -1):
        state = arrays(37, w=1, m=sign * 1.05 * TINY, v=1.01 * TINY, g=0)
        adamw(state)
        assert (state["m"] == 0).all() and (state["v"] == 0).all()
        state = arrays(37, w=1, m=sign * 1.05 * TINY, g=0)
        sgd(state)
        assert (state["m"] == 0).all()


def test_the_smallest_normal_moments_are_kept():
    state = arrays(37, w=1, m=-TINY / 0.875, v=2 * TINY, g=0)
    adamw(state)
    assert (state["m"] <= -TINY).all() and (state["v"] >= TINY).all()


@pytest.mark.parametrize("start", [1.0, -1.0, 3.0, 1e-30, -0.75])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.9])
def test_stochastic_rounding_is_unbiased(start, part):
    """Of n weights that should move by a part of the distance to the next bfloat16, so many move by all of it."""
    n, bits = 200_000, bits_of(np.array([start]))
    neighbour = float_of(bits + np.uint16(1 if start < 0 else 0xFFFF))[0]
    w = adamw_bf16(np.full(n, bits[0]), lr=part * (float_of(bits)[0] - neighbour))
    assert set(np.unique(w)) == {float_of(bits)[0], neighbour}
    deviation = np.sqrt(n * part * (1 - part))  # of a binomial distribution
    assert abs((w == neighbour).sum() - n * part) < 5 * deviation


def test_small_steps_add_up_with_stochastic_rounding():
    """To nearest, none of these steps of a fiftieth of the last place would move a weight."""
    w = np.full(2000, bits_of(np.array([1.0]))[0])
    for step in range(1, 301):
        moved = adamw_bf16(w, lr=2**-8 / 50, step=step)
    assert moved.mean() == pytest.approx(1 - 300 * 2**-8 / 50, abs=5 * 2**-8 * np.sqrt(300 * 0.02 / 2000))


def test_what_bfloat16_has_is_not_rounded():
    w = np.arange(0x7F80, dtype=np.uint16)
    before = w.copy()
    adamw_bf16(w, lr=0.0)
    np.testing.assert_array_equal(w, before)
    gaps = adamw_bf16(np.zeros(100, np.uint16), lr=0.0, n_decay=50)
    assert (gaps == 0).all()


def test_rounding_depends_on_position_seed_and_step_only():
    def rounded(n, **changes):
        return adamw_bf16(np.full(n, 0x3F80, np.uint16), lr=2**-9, **changes)

    w = rounded(10_000)
    assert (rounded(777) == w[:777]).all()
    for other in ({"seed": 2}, {"step": 2}, {"seed": 1 + 2**32}, {"step": 1 + 2**32}):
        assert 4700 < (rounded(10_000, **other) != w).sum() < 5300


def test_a_large_weight_becomes_infinite_and_no_other():
    largest = np.full(1000, 0x7F7F, np.uint16)
    assert np.isposinf(adamw_bf16(largest.copy(), lr=-1e38)).all()
    assert (adamw_bf16(largest, lr=1e30) <= float_of(np.array([0x7F7F]))).all()


@pytest.mark.parametrize("bad", [{"step": 0}, {"n_decay": -1}, {"n_decay": 6}])
def test_adamw_of_bfloat16_refuses(bad):
    w = np.full(5, 0x3F80, np.uint16)
    with pytest.raises(KernelError, match="a value outside of its range"):
        adamw_bf16(w, lr=0.01, **bad)
    assert (w == 0x3F80).all()


def gradient_norm(g, max_norm):
    norm, scale = np.empty(1), np.empty(1)
    _native.gradient_norm(norm=norm, scale=scale, g=g, max_norm=max_norm)
    return norm[0], scale[0]


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    assert gradient_norm(np.array([3, 4], np.float32), 1.0) == (5.0, 1 / (5 + 1e-6))
    assert gradient_norm(np.array([3, 4], np.float32), 5.1) == (5.0, 1.0)
    assert gradient_norm(np.array([3, 4], np.float32), 0.0) == (5.0, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm_and_is_not_scaled(value):
    g = np.zeros(1000, np.float32)
    g[613] = value
    norm, scale = gradient_norm(g, 1.0)
    assert not np.isfinite(norm) and scale == 1


def test_squares_do_not_overflow_in_single_precision():
    norm, _ = gradient_norm(np.full(4, 1e30, np.float32), 0.0)
    assert norm == pytest.approx(2e30, rel=1e-6)

"""What the rows of the optimisers do not say: refused values, denormal moments, gradients that are not finite."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError

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

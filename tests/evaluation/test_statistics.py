"""Standard errors against simulations: how much figures of texts with neighbours alike really vary."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gollm.evaluation.statistics import Figure, mean, quantile, standard_error

N, REPETITIONS = 4000, 400


def texts(correlation: float) -> np.ndarray:
    """REPETITIONS texts of N values, each like the one before it: x' = c x + √(1 - c²) noise.  -> (R, N)"""
    generator = np.random.default_rng(3)
    noise = generator.standard_normal((N, REPETITIONS)) * math.sqrt(1 - correlation**2)
    x = [generator.standard_normal(REPETITIONS)]
    for row in noise:
        x.append(correlation * x[-1] + row)
    return np.array(x[1:]).T


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.8])
@pytest.mark.parametrize(
    "figure", [mean, lambda x: quantile(x, 0.5), lambda x: quantile(x, 0.99)], ids=["mean", "median", "99 %"]
)
def test_a_standard_error_is_how_much_a_figure_varies(figure, correlation: float) -> None:
    found = [figure(x) for x in texts(correlation)]
    varies = np.std([f.value for f in found])
    claimed = math.sqrt(np.mean([f.standard_error**2 for f in found]))
    assert 0.85 * varies < claimed < 1.15 * varies  # the simulation's own error: 1 / √(2 * 400) = 3.5 %


def test_independent_tokens_would_claim_too_little() -> None:
    """What the test above is for: the usual formula is off by √((1 + c) / (1 - c)) = 3."""
    x = texts(0.8)
    claimed = np.mean(np.std(x, axis=1)) / math.sqrt(N)
    assert claimed < 0.4 * np.std(x.mean(axis=1))


def test_of_exponentials_and_roots() -> None:
    """To first order: against the spread of what they are taken of."""
    x = texts(0.6) ** 2
    means = x.mean(axis=1)
    found = [mean(row) for row in x]
    for name, function in [("exp", np.exp), ("sqrt", np.sqrt)]:
        claimed = math.sqrt(np.mean([getattr(f, name)().standard_error ** 2 for f in found]))
        assert claimed == pytest.approx(np.std(function(means)), rel=0.15)


def test_by_hand() -> None:
    """Blocks (1, 3), (2, 6) around their mean 3: sums -2 and 2, so √(2/1 * 8) / 4."""
    assert mean(np.array([1.0, 3, 2, 6])) == Figure(3, 1.0)
    # blocks (4, 5), (6, 1), (4): sums 1, -1, 0 around 4
    assert mean(np.array([4.0, 5, 6, 1, 4])) == Figure(4, pytest.approx(math.sqrt(3 / 2 * 2) / 5))
    assert quantile(np.array([5.0] * 9), 0.99) == Figure(5, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 15, 16, 17])
def test_few_values(n: int) -> None:
    x = np.arange(n, dtype=np.float64)
    assert mean(x).value == (n - 1) / 2
    error = standard_error(x)
    assert (error is None) == (n == 1) == (quantile(x, 0.5).standard_error is None)
    assert error is None or error > 0


def test_without_a_standard_error() -> None:
    one = mean(np.array([0.25]))
    assert one == Figure(0.25, None) and one.sqrt() == Figure(0.5, None)
    assert one.exp().standard_error is None and one.times(2) == Figure(0.5, None)
    assert Figure(1000.0, 1.0).exp().value == math.inf


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Figure(12.34567, 0.0789), "12.346 ± 0.079"),
        (Figure(12345.67, 123.4), "12346 ± 123"),
        (Figure(7.512e-4, 5.3e-6), "7.512e-04 ± 5.3e-06"),
        (Figure(1.0, 0.0), "1 ± 0"),
        (Figure(0.25, None), "0.25"),
        (Figure(math.inf, math.inf), "inf"),
    ],
)
def test_in_words(estimate: Figure, text: str) -> None:
    assert str(estimate) == text

"""Means and quantiles of one value for each token of a text, with standard errors.

Neighbouring tokens are not independent: a hard passage is hard for many tokens. The standard errors are therefore those
of batch means: n values are cut into about √n blocks of √n values, and the sums of blocks are taken as independent
(Flegal and Jones 2010, Batch means and spectral variance estimators in Markov chain Monte Carlo).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gollm.kernels import Array


class Figure(NamedTuple):
    """A figure and its standard error, None where there are too few tokens to tell."""

    value: float
    standard_error: float | None

    def __str__(self) -> str:
        """Figure(12.3456, 0.0789) -> "12.346 ± 0.079" """
        if self.standard_error is None or not math.isfinite(self.standard_error):
            return f"{self.value:.5g}"
        if self.standard_error == 0:
            return f"{self.value:.5g} ± 0"
        digits = 1 - math.floor(math.log10(self.standard_error))
        if digits > 5:
            return f"{self.value:.3e} ± {self.standard_error:.1e}"
        return f"{self.value:.{max(0, digits)}f} ± {self.standard_error:.{max(0, digits)}f}"

    def times(self, factor: float) -> Figure:
        return Figure(self.value * factor, None if self.standard_error is None else self.standard_error * factor)

    def exp(self) -> Figure:
        """Of the exponential: se(exp x) = exp(x) se(x), to first order."""
        with np.errstate(over="ignore"):
            value = float(np.exp(self.value))
        return Figure(value, None if self.standard_error is None else value * self.standard_error)

    def sqrt(self) -> Figure:
        """Of the square root: se(√x) = se(x) / 2√x, to first order."""
        root = math.sqrt(self.value)
        if self.standard_error is None or root == 0:
            return Figure(root, self.standard_error)
        return Figure(root, self.standard_error / (2 * root))


def standard_error(values: Array) -> float | None:
    """The standard error of the mean of values (n) that depend on their neighbours; None for fewer than two blocks.

    With K blocks, S_b the sum of block b of the values less their mean:  √(K/(K-1) Σ S_b²) / n"""
    n = len(values)
    starts = np.arange(0, n, math.isqrt(n) or 1)
    if len(starts) < 2:
        return None
    centred = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    sums = np.add.reduceat(centred, starts)
    return math.sqrt(len(starts) / (len(starts) - 1) * float(sums @ sums)) / n


def mean(values: Array) -> Figure:
    """The mean of values (n), n at least 1."""
    return Figure(float(np.mean(values, dtype=np.float64)), standard_error(values))


def quantile(values: Array, p: float) -> Figure:
    """The p-quantile q of values (n), n at least 1.

    The share of values up to q has the standard error s, as any mean; that of q is half of what lies between the
    quantiles of p - s and p + s (Woodruff 1952)."""
    q = float(np.quantile(values, p))
    s = standard_error(values <= q)
    if s is None:
        return Figure(q, None)
    low, high = np.quantile(values, [max(0.0, p - s), min(1.0, p + s)])
    return Figure(q, float(high - low) / 2)

"""The beta distribution's tail, and what is read off it: critical loadings, Student's t, adjusted p-values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST_TERMS = 10_000
TINY = 1e-300
HALVINGS = 200


def beta_tail(x: float, a: float, b: float) -> float:
    """P(Beta(a, b) > x), to about 1e-13 of itself.

    Parameters
    ----------
    x : float
    a, b : float
        Above 0.

    Notes
    -----
    The regularised incomplete beta function by its continued fraction, on the side where that converges fast; the tail
    itself is summed, not one minus the rest, so that small ones keep their digits.

    >>> beta_tail(0.5, 1, 1)
    0.5
    """
    if x <= 0:
        return 1.0
    if x >= 1:
        return 0.0
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1) / (a + b + 2):
        return math.exp(logarithm) * continued_fraction(1 - x, b, a) / b
    return 1 - math.exp(logarithm) * continued_fraction(x, a, b) / a


def continued_fraction(x: float, a: float, b: float) -> float:
    """Of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1.0 / nonzero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, MOST_TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1.0 / nonzero(1 + step * d), nonzero(1 + step / c)
            found *= c * d
        if abs(c * d - 1) < 1e-15:
            return found
    raise ArithmeticError(f"no incomplete beta function at x = {x}, a = {a}, b = {b}")


def nonzero(value: float) -> float:
    """A number that may be divided by."""
    return value if abs(value) > TINY else TINY


def bisect(falling: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a falling function passes a level."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if falling(middle) > level else (low, middle)
    return (low + high) / 2


def loading_p(loading: float, n_units: int) -> float:
    """Chance that some entry of a random axis in K dimensions is as large as this: at most K P(u^2 > l^2).

    The square of an entry of a uniformly random unit vector is Beta(1/2, (K - 1)/2) distributed (methods 6.6).
    """
    if n_units < 2:
        return 1.0
    return min(1.0, n_units * beta_tail(loading**2, 0.5, (n_units - 1) / 2))


def critical_loading(level: float, n_units: int) -> float:
    """The largest loading that a random axis in K dimensions has with this chance; see `loading_p`.

    >>> [round(critical_loading(0.05, k), 3) for k in (256, 384, 512, 2048)]
    [0.23, 0.194, 0.171, 0.093]
    """
    return bisect(lambda loading: loading_p(loading, n_units), level, 0.0, 1.0)


def student_quantile(level: float, freedom: int) -> float:
    """The t below which a share of Student's distribution lies; `level` from 1/2.

    >>> round(student_quantile(0.975, 9), 4)
    2.2622
    """

    def above(t: float) -> float:
        return (1 - beta_tail(freedom / (freedom + t * t), freedom / 2, 0.5)) / 2

    high = 1.0
    while above(high) > 1 - level:
        high *= 2
    return bisect(above, 1 - level, 0.0, high)


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values adjusted for their number: rejecting those below q keeps the share of false rejections below q.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.04, 0.04]
    """
    n = len(p)
    order = np.argsort(-p, kind="stable")
    scaled = p[order] * n / np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return adjusted

"""PPI++: a mean from a few checked items and a prediction for every item (Angelopoulos, Duchi and Zrnic, 2023).

With y_i of the n checked items and predictions f_i of all N, the estimate of the mean of y is

    theta = mean_n(y) + lambda (mean_N(f) - mean_n(f)),   var = var_n(y - lambda f) / n + lambda^2 var_N(f) / N

It is unbiased whatever the predictions are worth, since the checked items are a random sample; lambda only says how
much they help, and the best one, cov_n(y, f) / ((1 + n/N) var(f)), is clipped to [0, 1] ("power tuning", section 6
there). With useless predictions lambda is about 0 and the estimate that of the checked items alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Predictions(NamedTuple):
    """Mean and variance of the predictions of all N items."""

    mean: float
    variance: float
    n: int

    @classmethod
    def of(cls, values: Floats) -> Predictions:
        """Of the predictions themselves."""
        return cls(float(values.mean()), float(values.var()), len(values)) if len(values) else cls(0.0, 0.0, 0)

    def with_more(self, other: Predictions) -> Predictions:
        """Of both sets of items together."""
        n = self.n + other.n
        if not n:
            return self
        mean = (self.n * self.mean + other.n * other.mean) / n
        between = self.n * (self.mean - mean) ** 2 + other.n * (other.mean - mean) ** 2
        return Predictions(mean, (self.n * self.variance + other.n * other.variance + between) / n, n)


class Powered(NamedTuple):
    """The estimate, its variance, lambda, and the estimate and variance of the checked items alone (lambda 0)."""

    estimate: float
    variance: float
    power: float
    plain_estimate: float
    plain_variance: float

    @property
    def gained(self) -> tuple[float, float] | None:
        """What predictions add to the checked items, as an observation of its own: mean and precision (1 / variance).

        It is what, weighed by precision with the estimate of the checked items, gives the powered one; None if nothing.
        """
        precision = 1.0 / self.variance - 1.0 / self.plain_variance
        if precision <= 0.0:
            return None
        return (self.estimate / self.variance - self.plain_estimate / self.plain_variance) / precision, precision


def prediction_powered_mean(y: Floats, counts: NDArray[np.bool_], f: Floats, every: Predictions) -> Powered:
    """The mean of y over the items that count, from a random sample of all items.

    Args:
        y: checked values, shape (n,); of items that do not count anything finite.
        counts: whether the item counts, shape (n,), at least one. Whether the others of all N do is not known, so that
            the mean is a ratio, and the formula is applied to its influence function c (y - mean) / mean(c).
        f: predictions of the checked items, shape (n,). every: of all items.
    """
    n, mean = len(y), float(y[counts].mean())
    influence = np.where(counts, y - mean, 0.0) / counts.mean()
    spread = float(f.var())
    covariance = float(((influence - influence.mean()) * (f - f.mean())).mean())
    power = min(max(covariance / ((1.0 + n / every.n) * spread), 0.0), 1.0) if spread > 0.0 else 0.0
    residual = influence - power * f
    variance = float(residual.var(ddof=1)) / n + power**2 * every.variance / every.n
    estimate = mean + power * (every.mean - float(f.mean()))
    return Powered(estimate, variance, power, mean, float(influence.var(ddof=1)) / n)

"""PPI++: a mean from a few checked items and a prediction for every item (Angelopoulos, Duchi and Zrnic, 2023).

With y_i of the n checked items and predictions f_i of all N, the estimate of the mean of y is

    theta = mean_n(y) + lambda (mean_N(f) - mean_n(f)),   var = var_n(y - lambda f) / n + lambda^2 var_N(f) / N

It is unbiased whatever the predictions are worth, since the checked items are a random sample; lambda only says how
much they help, and the best one, cov_n(y, f) / ((1 + n/N) var(f)), is clipped to [0, 1] ("power tuning", section 6
there). With useless predictions lambda is about 0 and the estimate that of the checked items alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIN_AUDITED = 10  # clusters, below which no interval is given
NORMAL_FROM = 8  # of wrong and of right answers, below which the binomial interval is used


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


def tuned_power(covariance: float, variance: float, checked: int, total: int) -> float:
    """lambda, from the covariance of y and f, the variance of f, and n and N; 0 if the predictions do not vary."""
    if variance <= 0.0:
        return 0.0
    return min(max(covariance / ((1.0 + checked / total) * variance), 0.0), 1.0)


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
    power = tuned_power(covariance, spread, n, every.n)
    residual = influence - power * f
    variance = float(residual.var(ddof=1)) / n + power**2 * every.variance / every.n
    estimate = mean + power * (every.mean - float(f.mean()))
    return Powered(estimate, variance, power, mean, float(influence.var(ddof=1)) / n)


@dataclass(frozen=True)
class PredictionPoweredRate:
    """Share of wrong labels with its interval.

    `power` is PPI++'s lambda: 1 if the predictions are believed as they are, 0 if the audit alone is used. `n` is
    the number of audited labels, `exact` says that the interval is the binomial one of the audit alone.
    """

    rate: float
    low: float
    high: float
    level: float
    power: float
    n: int
    exact: bool


def ppi_rate(
    predicted: Predictions,
    audited_noise: Floats,
    audited_wrong: Floats,
    clusters: NDArray[np.int64] | None = None,
    level: float = 0.95,
) -> PredictionPoweredRate | None:
    """PPI++ (Angelopoulos, Duchi & Zrnic 2023) for a mean.

    Args:
        predicted: predicted probability that a label is wrong, of all N labels.
        audited_noise: (n,) the same of the labels that people audited, which were drawn at random.
        audited_wrong: (n,) what people found: 1 wrong, 0 right, between for a share.
        clusters: (n,) the prompt of each audited label; labels of one prompt are not independent.

    Returns:
        rate = mean(audited_wrong) + lambda (mean of all predictions - mean(audited_noise)), with the lambda that makes
        it most exact: Cov(wrong, noise) / (1 + n / N) Var(noise), in [0, 1]. The answer is right however bad the
        predictions are; good ones make the interval narrower. The interval is Student's over prompts; where people
        found fewer than `NORMAL_FROM` wrong or right labels it is Clopper and Pearson's of the audit alone, with n
        over the design effect. None for fewer than `MIN_AUDITED` prompts.
    """
    n, total = len(audited_wrong), predicted.n
    clusters = np.arange(n) if clusters is None else clusters
    _, place = np.unique(clusters, return_inverse=True)
    groups = int(place.max()) + 1 if n else 0
    if groups < MIN_AUDITED:
        return None
    wrong = float(audited_wrong.mean())
    effect = _design_effect(audited_wrong - wrong, place)
    found = min(audited_wrong.sum(), n - audited_wrong.sum())
    if found < NORMAL_FROM:
        size = n / effect
        tail = (1 - level) / 2
        low = float(scipy.stats.beta.ppf(tail, wrong * size, size - wrong * size + 1)) if wrong > 0 else 0.0
        high = float(scipy.stats.beta.ppf(1 - tail, wrong * size + 1, size - wrong * size)) if wrong < 1 else 1.0
        return PredictionPoweredRate(wrong, low, high, level, 0.0, n, exact=True)
    spread = predicted.variance
    common = float(np.mean((audited_wrong - wrong) * (audited_noise - audited_noise.mean())))
    power = tuned_power(common, spread, n, total)
    rate = wrong + power * (predicted.mean - float(audited_noise.mean()))
    residual = audited_wrong - power * audited_noise
    sums = np.bincount(place, residual - residual.mean())
    variance = float((sums**2).sum()) / n**2 * groups / (groups - 1) + power**2 * spread / total
    reach = float(scipy.stats.t.ppf(0.5 + level / 2, groups - 1)) * variance**0.5
    return PredictionPoweredRate(
        min(max(rate, 0.0), 1.0), max(0.0, rate - reach), min(1.0, rate + reach), level, power, n, exact=False
    )


def _design_effect(centred: Floats, place: NDArray[np.int64]) -> float:
    """Variance of sums over prompts over that of as many independent labels; at least 1."""
    alone = float((centred**2).sum())
    return max(1.0, float((np.bincount(place, centred) ** 2).sum()) / alone) if alone > 0 else 1.0

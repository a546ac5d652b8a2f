"""How many labels are wrong, from a random audit by people and a prediction for every label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from scipy.stats import t as student

Floats = NDArray[np.float64]
MIN_AUDITED = 10  # clusters, below which no interval is given
NORMAL_FROM = 8  # of wrong and of right answers, below which the binomial interval is used


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


@dataclass(frozen=True)
class Predictions:
    """Count, sum and sum of squares of predicted probabilities; those of two sets add up."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Floats) -> Self:
        """Those of (n,) values."""
        return cls(len(values), float(values.sum()), float((values**2).sum()))

    def __add__(self, other: Predictions) -> Predictions:
        return Predictions(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Their mean, 0 without any."""
        return self.total / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """Their population variance."""
        return max(self.squares / self.n - self.mean**2, 0.0) if self.n else 0.0


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
        low = float(beta.ppf(tail, wrong * size, size - wrong * size + 1)) if wrong > 0 else 0.0
        high = float(beta.ppf(1 - tail, wrong * size + 1, size - wrong * size)) if wrong < 1 else 1.0
        return PredictionPoweredRate(wrong, low, high, level, 0.0, n, exact=True)
    spread = predicted.variance
    common = float(np.mean((audited_wrong - wrong) * (audited_noise - audited_noise.mean())))
    power = float(np.clip(common / ((1 + n / total) * spread), 0.0, 1.0)) if spread > 0 else 0.0
    rate = wrong + power * (predicted.mean - float(audited_noise.mean()))
    residual = audited_wrong - power * audited_noise
    sums = np.bincount(place, residual - residual.mean())
    variance = float((sums**2).sum()) / n**2 * groups / (groups - 1) + power**2 * spread / total
    reach = float(student.ppf(0.5 + level / 2, groups - 1)) * variance**0.5
    return PredictionPoweredRate(
        min(max(rate, 0.0), 1.0), max(0.0, rate - reach), min(1.0, rate + reach), level, power, n, exact=False
    )


def _design_effect(centred: Floats, place: NDArray[np.int64]) -> float:
    """Variance of sums over prompts over that of as many independent labels; at least 1."""
    alone = float((centred**2).sum())
    return max(1.0, float((np.bincount(place, centred) ** 2).sum()) / alone) if alone > 0 else 1.0

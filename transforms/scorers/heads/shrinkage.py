"""How much each kind of feature may matter: Gaussian priors of the heads' weights, compared by evidence.

A prior says how far a block of features (embedding, interaction, surface) may spread the margins, and how fast it
trusts a block's directions less as they explain less: the standard deviation of a weight is proportional to
rms ** power of its direction, so power 0 is the ridge on the block as it lies, and a large power is a regression on
the first principal components. Priors are compared by the evidence of the labels (MacKay, "Bayesian interpolation",
1992), which needs no held-out labels: with 40% of the labels wrong, cross-validation of a few thousand pairs cannot
tell priors apart, and the choice by its deviance is mostly luck.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transforms.stats.logistic import fit_logistic

Array = NDArray[np.float64]
POWERS = (0, 2)
SPREADS = (0.1, 0.25, 0.6, 1.5, 4.0)
# Spread of (embedding, interaction, surface) as multiples of one number.
MIXTURES = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, 0.0, 1.0), (0.5, 0.3, 1.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, order=True)
class Prior:
    """`spread`: standard deviation of the margins each block (embedding, interaction, surface) brings, log-odds;
    `power`: how fast directions of embedding and interaction are trusted less as they explain less."""

    spread: tuple[float, float, float]
    power: int = 0

    def deviations(self, mean_square: tuple[Array, Array, Array]) -> Array:
        """Prior standard deviation of each weight, given the mean squares of each block's features."""
        parts = []
        for spread, square, power in zip(self.spread, mean_square, (self.power, self.power, 0), strict=True):
            # Features that hardly vary are left out: their weights would be anything.
            relative = np.where(square > 1e-12, square, 0.0) / max(float(square.max(initial=0.0)), 1e-12)
            shape = np.where(relative > 1e-9, relative, 0.0) ** power * (relative > 1e-9)
            total = float(square @ shape)
            parts.append(spread * np.sqrt(shape / total) if total > 0.0 else np.zeros(len(square)))
        return np.concatenate(parts)


PRIORS = tuple(
    Prior((size * mixture[0], size * mixture[1], size * mixture[2]), power)
    for mixture, size, power in itertools.product(MIXTURES, SPREADS, POWERS)
    if power == 0 or mixture[0] > 0.0
)


def evidence(x: Array, y: Array, weight: Array, deviations: Array) -> float:
    """log P(labels | prior) of a logistic head by Laplace's approximation.

    Args:
        x: features (n, d). y: soft labels (n,). weight: weights of the labels (n,).
        deviations: prior standard deviation of each weight (d,); features of deviation 0 are left out.
    """
    active = deviations > 0.0
    scaled = x[:, active] * deviations[active]
    unit = np.ones(scaled.shape[1])
    if not len(unit):
        return -float(weight.sum()) * float(np.log(2.0))
    return fit_logistic(scaled, y, weight, 0.0 * unit, unit, tolerance=1e-4).evidence


def in_proportion(evidences: Array, n: int) -> list[int]:
    """Which prior each of n heads gets, in proportion to exp(evidence): the mean over heads then averages over
    priors as far as the labels cannot tell them apart. Of equal priors the earlier goes first."""
    order = np.argsort(-evidences, kind="stable")
    shares = np.exp(evidences[order] - evidences[order[0]])
    ends = np.cumsum(shares / shares.sum())
    quantiles = (np.arange(n) + 0.5) / n
    return [int(order[min(int(i), len(order) - 1)]) for i in np.searchsorted(ends, quantiles)]

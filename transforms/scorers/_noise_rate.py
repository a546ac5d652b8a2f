"""How many labels are wrong: the flip rate of a binary label given margins that did not see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from transforms.scorers._bradley_terry import deviance

Array = NDArray[np.float64]
_MAX_FLIP = 0.49


@dataclass(frozen=True)
class FlipRate:
    """`flip`, the probability that a label is wrong, and `scale`, what the margins must be multiplied with to be
    log-odds of the true label."""

    flip: float
    scale: float


def estimate_flip_rate(margins: Array, labels: Array, weight: Array | None = None) -> FlipRate:
    """Maximum-likelihood flip rate and scale under P(label = a) = flip + (1 - 2 flip) sigmoid(scale margin).

    Args:
        margins: out-of-sample margins r(a) - r(b), shape (n,).
        labels: labels in [0, 1], 1 for a, shape (n,).
        weight: weights of the labels, shape (n,).

    The likelihood is maximised on a grid that is refined twice. Small margins cannot tell flips from a wrong
    scale: the estimate is then as small as the likelihood allows within half a nat (the simplest explanation).
    Negating margins and labels changes nothing.
    """
    weight = np.ones(len(margins)) if weight is None else weight
    if not len(margins) or weight.sum() <= 0.0 or not np.any(margins):
        return FlipRate(0.0, 1.0)
    unit = 1.0 / float(np.median(np.abs(margins[margins != 0.0])))
    flips, scales = np.linspace(0.0, _MAX_FLIP, 15), unit * np.geomspace(0.05, 50.0, 25)
    best = (np.inf, 0.0, unit)
    for _ in range(3):
        table = [(weight.sum() * deviance(s * margins, labels, weight, f), f, s) for f in flips for s in scales]
        lowest = min(value for value, _, _ in table)
        best = min((entry for entry in table if entry[0] <= lowest + 0.5), key=lambda entry: entry[1])
        step, ratio = flips[1] - flips[0], scales[1] / scales[0]
        flips = np.linspace(max(0.0, best[1] - step), min(_MAX_FLIP, best[1] + step), 9)
        scales = best[2] * np.geomspace(1.0 / ratio, ratio, 9)
    return FlipRate(float(best[1]), float(best[2]))


def posterior_right(margins: Array, labels: Array, rate: FlipRate) -> Array:
    """P(label is right) of hard labels given margins and the flip rate, shape (n,)."""
    p = expit(rate.scale * margins * np.sign(labels - 0.5))
    right = p * (1.0 - rate.flip)
    return np.asarray(right / (right + (1.0 - p) * rate.flip))

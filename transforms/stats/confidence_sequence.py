"""An interval for those who look every night: a confidence sequence by betting.

A gambler bets against every possible mean m, on values in [0, 1] as they come in; who bets against the true mean
expects to gain nothing, so that by Ville's inequality the capital ever reaches 1 / alpha with probability alpha at
most. The means against which it has not are an interval that holds at all times at once (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 2024: the hedged capital with the predictable plug-in
bets of their theorem 3; of N values drawn without replacement the mean of those to come is bet on, their section 5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MEANS = 1001
_LARGEST_BET = 0.5  # of what would lose everything


def betting_interval(values: Floats, population: int | None, level: float = 0.95) -> tuple[float, float]:
    """Bounds on the mean of the population, valid after every value.

    Args:
        values: in [0, 1], shape (n,), in the order in which they came.
        population: how many values there are in all, drawn from without replacement; None: infinitely many.
    """
    alpha = 1.0 - level
    means = np.linspace(0.0, 1.0, _MEANS)  # every array below has this shape
    up, down = np.zeros(_MEANS), np.zeros(_MEANS)  # log capital of those who bet on more and on less than m
    alive = np.ones(_MEANS, dtype=bool)
    total, squares, guess, variance = 0.0, 0.0, 0.5, 0.25
    for t, value in enumerate(values.tolist(), start=1):
        left = means if population is None else (population * means - total) / (population - t + 1)
        alive &= (left >= -1e-12) & (left <= 1.0 + 1e-12)
        left = np.clip(left, 0.0, 1.0)
        bet = np.sqrt(2.0 * np.log(2.0 / alpha) / (variance * t * np.log(t + 1.0)))
        # Capital stays positive: a bet on more loses at most bet m, one on less bet (1 - m).
        more = np.minimum(bet, _LARGEST_BET / np.maximum(left, 1e-12))
        less = np.minimum(bet, _LARGEST_BET / np.maximum(1.0 - left, 1e-12))
        up += np.log1p(more * (value - left))
        down += np.log1p(-less * (value - left))
        alive &= np.maximum(up, down) < np.log(2.0 / alpha)
        total += value
        guess = (0.5 + total) / (t + 1.0)
        squares += (value - guess) ** 2
        variance = (0.25 + squares) / (t + 1.0)
    if not alive.any():
        return float(values.mean()), float(values.mean())
    inside, step = means[alive], 1.0 / (_MEANS - 1)
    # The mean next to the last one that survived is refuted; what lies between them is not.
    return max(float(inside[0]) - step, 0.0), min(float(inside[-1]) + step, 1.0)

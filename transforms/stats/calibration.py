"""How honest probabilities are: log loss, temperature, expected calibration error, reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_loss(z: Floats, target: Floats, weight: Floats) -> float:
    """Weighted mean of -log P(target) for log-odds `z` and targets in [0, 1]."""
    total = float(weight.sum())
    losses = np.logaddexp(0.0, z) - target * z
    return float((weight * losses).sum() / total) if total else 0.0


def fit_temperature(z: Floats, target: Floats, weight: Floats, spread: float = 0.35) -> float:
    """Temperature T that makes z / T calibrated (Guo et al. 2017), shrunk to 1 when labels are few.

    Minimises the summed log loss plus (log T)^2 / (2 spread^2), a log-normal prior around 1.
    """
    from scipy.optimize import minimize_scalar  # imported here: a tenth of a second of every command otherwise

    if not len(z) or not np.any(z):
        return 1.0

    def objective(log_t: float) -> float:
        return log_loss(z / math.exp(log_t), target, weight) * float(weight.sum()) + log_t**2 / (2 * spread**2)

    return math.exp(float(minimize_scalar(objective, bounds=(-2.0, 2.0), method="bounded").x))


def reliability_bins(p_a: Floats, target: Floats, bins: int = 10) -> list[dict[str, float]]:
    """Reliability diagram of the chosen side: bins of equal width over confidence [0.5, 1].

    Args:
        p_a: probability that a is better.
        target: 1 a is better, 0 b is better, 0.5 neither.

    Returns:
        One object per non-empty bin: `low, high, n, confidence` (mean) and `accuracy`; who is undecided is half right.
    """
    confidence = np.maximum(p_a, 1 - p_a)
    right = _share_right(p_a - 0.5, target)
    index = np.minimum((confidence - 0.5) * 2 * bins, bins - 1).astype(int)
    rows = []
    for i in range(bins):
        inside = index == i
        if inside.any():
            rows.append(
                {
                    "low": 0.5 + i / (2 * bins),
                    "high": 0.5 + (i + 1) / (2 * bins),
                    "n": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                }
            )
    return rows


def _share_right(lean: Floats, target: Floats) -> Floats:
    """How right each is that leans to a (above 0) or b; 0.5 if it leans to neither, whichever side is stored as a."""
    return np.where(lean == 0, 0.5, np.where(lean > 0, target, 1 - target))


def expected_calibration_error(p_a: Floats, target: Floats, bins: int = 5) -> float:
    """`calibration_error` of the chosen side; 5 bins over [0.5, 1] are the usual 10 over [0, 1] folded at one half."""
    return calibration_error(reliability_bins(p_a, target, bins))


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """ECE (Naeini et al. 2015) of `reliability_bins`: mean |accuracy - confidence|, weighted by size; 0 of no bins."""
    total = sum(row["n"] for row in bins)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / total if total else 0.0


def calibration_report(z: Floats, target: Floats) -> dict[str, Any]:
    """ECE, accuracy, log loss and diagram of log-odds `z` against strict targets, as JSON."""
    if not len(z):
        return {"n": 0}
    p = scipy.special.expit(z)
    return {
        "n": len(z),
        "ece": expected_calibration_error(p, target),
        "accuracy": float(np.mean(_share_right(z, target))),
        "log_loss": log_loss(z, target, np.ones(len(z))),
        "bins": reliability_bins(p, target),
    }

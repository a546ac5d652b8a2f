"""Bradley-Terry regression on difference features, with losses that tolerate wrong labels.

The model is P(a better) = sigmoid(x . w) with x = f(a) - f(b) and no intercept, so exchanging a and b
negates x and mirrors the probability exactly (Bradley & Terry, Biometrika 1952).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from transforms.stats.logistic import fit_logistic

Array = NDArray[np.float64]
LossName = Literal["logistic", "corrected", "gce"]


@dataclass(frozen=True)
class Loss:
    """A loss of a margin z for a soft target y in [0, 1].

    logistic: cross entropy of sigmoid(z).
    corrected: cross entropy of flip + (1 - 2 flip) sigmoid(z), the probability of the *noisy* label when
        each label is wrong with probability `flip` (forward correction, Patrini et al., CVPR 2017).
    gce: generalised cross entropy (1 - p^q) / q (Zhang & Sabuncu, NeurIPS 2018): between cross entropy
        (q -> 0) and mean absolute error (q = 1), so one wrong label pulls with bounded force.
    """

    name: LossName = "logistic"
    flip: float = 0.0
    q: float = 0.7

    def value_and_slope(self, z: Array, y: Array) -> tuple[Array, Array]:
        """Loss and its derivative in z, element by element."""
        if self.name == "logistic":
            return np.logaddexp(0.0, z) - y * z, scipy.special.expit(z) - y
        p, anti = scipy.special.expit(z), scipy.special.expit(-z)
        slope_p = p * anti
        if self.name == "corrected":
            keep = 1.0 - 2.0 * self.flip
            noisy, noisy_anti = _floor(self.flip + keep * p), _floor(self.flip + keep * anti)
            value = -y * np.log(noisy) - (1.0 - y) * np.log(noisy_anti)
            return value, keep * slope_p * ((1.0 - y) / noisy_anti - y / noisy)
        safe_p, safe_anti = _floor(p), _floor(anti)
        value = (y * (1.0 - safe_p**self.q) + (1.0 - y) * (1.0 - safe_anti**self.q)) / self.q
        return value, slope_p * ((1.0 - y) * safe_anti ** (self.q - 1.0) - y * safe_p ** (self.q - 1.0))


def objective(w: Array, x: Array, y: Array, weight: Array, ridge: float, loss: Loss) -> tuple[float, Array]:
    """Weighted mean loss + ridge/2 |w|^2 and its gradient; shapes w (d,), x (n, d), y and weight (n,)."""
    value, slope = loss.value_and_slope(x @ w, y)
    total = weight.sum()
    return (
        float(weight @ value / total + 0.5 * ridge * (w @ w)),
        np.asarray(x.T @ (weight * slope) / total + ridge * w),
    )


def fit_head(x: Array, y: Array, weight: Array, ridge: float, loss: Loss | None = None) -> Array:
    """Weights that minimise `objective`; shape (d,).

    The logistic loss is convex and solved by Newton's method. The others are not: L-BFGS starts from the minimum
    of the logistic loss, which makes them deterministic and keeps them in its basin. No labelled rows: zeros, which
    prefer neither side.

    Args:
        x: difference features (n, d); d x d must fit in memory. y: labels (n,). weight: weights of labels (n,).
        ridge: penalty, positive.
    """
    d = x.shape[1]
    total = float(weight.sum())
    if not len(x) or not d or total <= 0.0:
        return np.zeros(d)
    # Mean loss with a ridge is a posterior: sum of losses with the prior N(0, 1 / (ridge total)).
    w = fit_logistic(x, y, weight, np.zeros(d), np.full(d, 1.0 / (ridge * total)), tolerance=1e-7).weights
    if loss is None or loss.name == "logistic":
        return w
    return np.asarray(
        scipy.optimize.minimize(
            objective,
            w,
            args=(x, y, weight, ridge, loss),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "gtol": 1e-6, "ftol": 1e-12},
        ).x
    )


def deviance(z: Array, y: Array, weight: Array, flip: float = 0.0) -> float:
    """Weighted mean cross entropy of flip + (1 - 2 flip) sigmoid(z) against soft labels, in nats."""
    value, _ = Loss("corrected" if flip else "logistic", flip).value_and_slope(z, y)
    return float(weight @ value / weight.sum())


def _floor(p: Array) -> Array:
    return np.maximum(p, 1e-12)

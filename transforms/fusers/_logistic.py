"""Logistic regression with a Gaussian prior on each weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]


def fit_logistic(design: Any, target: Floats, weight: Floats, mean: Floats, variance: Floats) -> Floats:
    """Most probable weights of P(1) = expit(design @ w), w_j ~ N(mean_j, variance_j).

    Args:
        design: matrix (n, d), dense or sparse.
        target: (n,) in [0, 1]; a fraction is a split opinion.
        weight: (n,) how much each row counts.
        mean, variance: (d,) prior; variance > 0.

    Returns:
        (d,) weights. The problem is strictly convex: the answer is unique whatever the order of rows.
    """
    if not design.shape[0] or not design.shape[1]:
        return mean.copy()
    root = np.sqrt(variance)

    def objective(v: Floats) -> tuple[float, Floats]:
        z = design @ (mean + root * v)
        loss = float((weight * (np.logaddexp(0.0, z) - target * z)).sum() + 0.5 * v @ v)
        slope = design.T @ (weight * (1.0 / (1.0 + np.exp(-np.clip(z, -500, 500))) - target))
        return loss, root * slope + v

    # In units of the prior's standard deviation the Hessian is at least the identity: well conditioned.
    solution = minimize(
        objective,
        np.zeros(len(mean)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "gtol": 1e-8, "ftol": 1e-13},
    )
    return np.asarray(mean + root * solution.x, dtype=np.float64)

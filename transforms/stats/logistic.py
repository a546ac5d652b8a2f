"""Logistic regression with a Gaussian prior on each weight, and how probable it makes the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_STEPS = 100
TOLERANCE = 1e-10
MAX_DENSE = 20_000_000  # entries; votes are dense in voters, and a sparse product is slower until memory matters


@dataclass(frozen=True)
class LogisticFit:
    """Most probable weights, and the logarithm of P(labels | prior) by Laplace's approximation."""

    weights: Floats
    evidence: float


def fit_logistic(
    design: Any, target: Floats, weight: Floats, mean: Floats, variance: Floats, tolerance: float = TOLERANCE
) -> LogisticFit:
    """Most probable weights of P(1) = expit(design @ w), w_j ~ N(mean_j, variance_j), by Newton's method.

    Args:
        design: matrix (n, d), dense or sparse; d x d must fit in memory.
        target: (n,) in [0, 1]; a fraction is a split opinion.
        weight: (n,) how much each row counts, at least 0.
        mean, variance: (d,) prior; variance > 0.
        tolerance: largest last Newton step, in prior standard deviations.

    Returns:
        The weights (d,) and the evidence (MacKay 1992), by which priors can be compared without held-out labels:
        log-likelihood - |v|^2 / 2 - log det(Hessian) / 2, where v are the weights in units of the prior.
        The problem is strictly convex, so the answer does not depend on where the search starts.
    """
    if not design.shape[0] or not design.shape[1]:
        return LogisticFit(mean.copy(), 0.0)
    # In units of the prior's standard deviation the Hessian is at least the identity: well conditioned.
    root = np.sqrt(variance)
    scaled = (
        scipy.sparse.csr_matrix(design).multiply(root[None, :]).tocsr()
        if scipy.sparse.issparse(design)
        else design * root
    )
    if scipy.sparse.issparse(scaled) and scaled.shape[0] * scaled.shape[1] <= MAX_DENSE:
        scaled = scaled.toarray()
    base = np.asarray(design @ mean, dtype=np.float64)

    def loss(v: Floats) -> float:
        z = base + scaled @ v
        return float((weight * (np.logaddexp(0.0, z) - target * z)).sum() + 0.5 * v @ v)

    v = np.zeros(len(mean))
    value = loss(v)
    for _ in range(MAX_STEPS):
        slope, hessian = _derivatives(scaled, base, target, weight, v)
        step = scipy.linalg.cho_solve(scipy.linalg.cho_factor(hessian), slope)
        rate, moved = 1.0, loss(v - step)
        while moved > value and rate > TOLERANCE:
            rate /= 2
            moved = loss(v - rate * step)
        if moved > value:
            break
        v, value = v - rate * step, moved
        if float(np.abs(rate * step).max()) < tolerance:
            break
    _, hessian = _derivatives(scaled, base, target, weight, v)
    return LogisticFit(mean + root * v, -value - 0.5 * float(np.linalg.slogdet(hessian)[1]))


def _derivatives(scaled: Any, base: Floats, target: Floats, weight: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Slope and Hessian of the negative log posterior at `v`."""
    p = scipy.special.expit(base + scaled @ v)
    slope = scaled.T @ (weight * (p - target)) + v
    curve = weight * p * (1 - p)
    if scipy.sparse.issparse(scaled):
        hessian = (scaled.T @ scaled.multiply(curve[:, None])).toarray()
    else:
        hessian = scaled.T @ (scaled * curve[:, None])
    return np.asarray(slope), np.asarray(hessian + np.eye(len(v)))

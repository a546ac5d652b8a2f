"""The posterior of `siblings` for a prompt of many responses, in time and memory about linear in its pairs.

The information matrix of fold f is H_f = D' W_f D + I / spread^2, D (pairs, responses) the incidence matrix, +1 for
a and -1 for b, and W_f the Fisher information of the labels outside the fold. D has two entries a row, so:

- The mode: each step of Fisher scoring solves H_f x = gradient by conjugate gradients, of all folds at once. The prior
  bounds H_f from below, so that a few dozen products with D are enough, however many responses there are.
- The variance c' H_f^-1 c of a held-out pair, c its row of D: up to `_EXACT` responses by the inverse. For more, from
  `n_probes` draws q ~ N(0, H_f^-1) as the mean of (c' q)^2, each draw being H_f^-1 (D' W_f^(1/2) u + v / spread) of
  Rademacher u, v (perturb and sample; Papandreou & Yuille, "Gaussian sampling by local perturbations", 2010). Its
  standard error is about sqrt(2 / n_probes) of the variance.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
_EXACT = 300  # responses up to which variances are exact
_PROBES = 256
_FIT_PROBES = 64  # where a Newton step of 1e-3 is good enough, so are these
_CG_STEPS = 200


class _Model(Protocol):
    """What the posterior needs of `siblings.Siblings`."""

    @property
    def spread(self) -> float: ...
    @property
    def flip(self) -> float: ...


def posterior_of_large(
    offset: Array,
    labels: Array,
    ends: NDArray[np.int64],
    model: _Model,
    max_folds: int,
    tolerance: float,
    steps: int,
) -> tuple[Array, Array]:
    """Shift and variance (n,) of each pair's margin, from the labels outside the pair's fold.

    Args:
        offset: margins without the responses' effects, shape (n,). labels: in [0, 1], NaN where there is none, (n,).
        ends: numbers of the pair's responses, shape (n, 2), pairs in an order that depends on their content alone.
        tolerance: largest last step of Fisher scoring; it also says how many draws a variance is worth.
    """
    n, n_folds = len(ends), min(len(ends), max_folds)
    fold = np.arange(n) % n_folds
    known = ~np.isnan(labels)
    y = np.where(known, labels, 0.5)[:, None]
    used = known[:, None] & (fold[:, None] != np.arange(n_folds))  # (n, folds)
    incidence = _incidence(ends)
    effects = np.zeros((incidence.shape[1], n_folds))
    for _ in range(steps):
        # All (n, folds): a column is the prompt as the pairs held out in that fold see it.
        z = offset[:, None] + incidence @ effects
        score, fisher = score_and_information(z, y, used, model.flip)
        gradient = incidence.T @ score - effects / model.spread**2
        step = _solve(incidence, fisher, model.spread, gradient, 1e-3)
        effects = effects + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < tolerance:
            break
    shift = (incidence @ effects)[np.arange(n), fold]
    n_probes = _PROBES if tolerance < 1e-4 else _FIT_PROBES
    variance = np.zeros(n)
    for f in range(n_folds):
        held = np.flatnonzero(fold == f)
        variance[held] = _variances(incidence, fisher[:, f], model.spread, ends[held], n_probes)
    return shift, variance


def score_and_information(z: Array, y: Array, used: NDArray[np.bool_], flip: float) -> tuple[Array, Array]:
    """Derivative by z of the log-likelihood of labels y under P(a) = flip + (1 - 2 flip) expit(z), and its information.

    Args:
        z: log-odds that a is better, of any shape; y (labels in [0, 1]) and used (does a label count?) broadcast to it.
    """
    keep = 1.0 - 2.0 * flip
    p, anti = scipy.special.expit(z), scipy.special.expit(-z)
    noisy, noisy_anti = flip + keep * p, flip + keep * anti
    variance = np.maximum(noisy * noisy_anti, 1e-12)
    slope = keep * p * anti
    return used * slope * (y * noisy_anti - (1.0 - y) * noisy) / variance, used * slope**2 / variance


def _incidence(ends: NDArray[np.int64]) -> scipy.sparse.csr_array:
    n = len(ends)
    values = np.tile([1.0, -1.0], n)
    # Copied: scipy sorts a row's columns in place.
    return scipy.sparse.csr_array(
        (values, ends.ravel(), np.arange(0, 2 * n + 1, 2)), shape=(n, int(ends.max()) + 1), copy=True
    )


def _variances(
    incidence: scipy.sparse.csr_array, fisher: Array, spread: float, ends: NDArray[np.int64], n_probes: int
) -> Array:
    """c' H^-1 c of the pairs with `ends` (m, 2), where H has the weights `fisher` (n,); shape (m,)."""
    n_items = incidence.shape[1]
    if n_items <= _EXACT:
        information = (incidence.T @ (incidence * fisher[:, None])).toarray() + np.eye(n_items) / spread**2
        covariance = np.linalg.inv(information)
        a, b = ends.T
        return np.asarray(covariance[a, a] + covariance[b, b] - 2.0 * covariance[a, b])
    rng = np.random.default_rng(0)
    on_pairs, on_items = (rng.integers(0, 2, size=(size, n_probes)) * 2.0 - 1.0 for size in incidence.shape)
    noise = incidence.T @ (np.sqrt(fisher)[:, None] * on_pairs) + on_items / spread
    # (items, probes): columns are draws of the effects' posterior.
    draws = _solve(incidence, fisher[:, None], spread, noise, 1e-2)
    return np.asarray(((draws[ends[:, 0]] - draws[ends[:, 1]]) ** 2).mean(axis=1))


def _solve(incidence: scipy.sparse.csr_array, fisher: Array, spread: float, right: Array, relative: float) -> Array:
    """x with (D' diag(w) D + I / spread^2) x = right, column by column, by conjugate gradients.

    Args:
        fisher: weights w, shape (n, columns) or (n, 1). right: shape (items, columns).
        relative: every column's residual is at most this part of its right side.
    """
    diagonal = abs(incidence).T @ fisher + 1.0 / spread**2
    x, residual = np.zeros_like(right), right.copy()
    direction = residual / diagonal
    inner = (residual * direction).sum(axis=0)
    goal = relative * np.sqrt((right**2).sum(axis=0))
    for _ in range(_CG_STEPS):
        if (np.sqrt((residual**2).sum(axis=0)) <= goal).all():
            break
        image = incidence.T @ (fisher * (incidence @ direction)) + direction / spread**2
        curvature = (direction * image).sum(axis=0)
        # A column that is solved already stands still.
        length = np.divide(inner, curvature, out=np.zeros_like(inner), where=curvature > 0.0)
        x += length * direction
        residual -= length * image
        scaled = residual / diagonal
        following = (residual * scaled).sum(axis=0)
        ratio = np.divide(following, inner, out=np.zeros_like(inner), where=inner > 0.0)
        direction = scaled + ratio * direction
        inner = following
    return x

"""What is believed of the weights before any label: several hypotheses, averaged by their evidence.

A labelled pair i has columns x_i (`design.columns_of`, d of them), and P(a is better) = expit(x_i . w). A hypothesis h
says, for a prior mean mu (d,) and variances v (d,) of `design.prior_weights`:

    w = s mu + e,    s ~ N(1, scale),    e_j ~ N(0, v_j times the width that h gives to the part of column j)

- Narrow widths say: the voters are what is known of them without labels; wide ones: the labels must tell.
- s is how far mu as a whole is too sure or too modest. Where agreement knows the weights, voters' errors that it takes
  for independent make all of them too large together; without s only wide e could say so, and twenty labels would then
  move the weights against each other, too. Elsewhere the temperature does this, and scale is 0.
- The length has a width of its own, which may be next to nothing (a spike and a slab: George & McCulloch 1993,
  "Variable selection via Gibbs sampling"), and so have the slices.

P(labels | h) is Laplace's approximation (`transforms.stats.logistic.fit_logistic`), and the weights that count are the
mean over hypotheses in proportion to P(h) P(labels | h) (Bayesian model averaging: Hoeting et al. 1999; MacKay 1992).
A mean of weights is weights: log-odds still add up over voters and mirror when a and b are exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from transforms.fusers.posterior.design import LENGTH as LENGTH_COLUMN
from transforms.fusers.posterior.design import Column
from transforms.stats.logistic import MAX_DENSE, fit_logistic

Floats = NDArray[np.float64]
Widths = dict[float, float]  # what prior variances are multiplied with: how probable it is
VOTERS: Widths = {0.03: 0.3, 0.1: 0.25, 0.3: 0.2, 1.0: 0.15, 3.0: 0.1}
LENGTH: Widths = {0.02: 0.4, 1.0: 0.6}
SLICES: Widths = {0.01: 0.25, 0.1: 0.25, 1.0: 0.25, 5.0: 0.25}
KNOWN_VOTERS: Widths = {0.01: 0.6, 0.1: 0.2, 1.0: 0.15, 6.0: 0.05}  # where agreement knows the weights
KNOWN_LENGTH: Widths = {0.02: 0.7, 1.0: 0.3}
KNOWN_SCALE = 0.5  # variance of s there; elsewhere s is 1
NEGLIGIBLE = 0.05  # of the best hypothesis's posterior probability: less probable ones are left out
TOLERANCE = 1e-6  # of weights, in prior standard deviations


@dataclass(frozen=True)
class Hypothesis:
    """Widths of the voters' and groups' weights, the length's and the slices', and how probable they are."""

    voters: float
    length: float
    slices: float
    probability: float


@dataclass(frozen=True)
class Prior:
    """Mean and variance (d,) of the weights of `columns`, the widths that are tried, and the variance `scale` of s."""

    columns: list[Column]
    mean: Floats
    variance: Floats
    voters: Widths
    length: Widths
    scale: float

    def of(self, hypothesis: Hypothesis) -> Floats:
        """Variance (d,) of e under `hypothesis`."""
        width = {"slice": hypothesis.slices, "length": hypothesis.length}
        widths = np.array([width.get(part, hypothesis.voters) for part, *_ in self.columns], dtype=np.float64)
        return np.asarray(self.variance * widths)


def prior_of(columns: list[Column], mean: Floats, variance: Floats, *, known: bool) -> Prior:
    """The prior of `prior_weights`; `known` is whether they come from agreement."""
    voters, lengths, scale = (KNOWN_VOTERS, KNOWN_LENGTH, KNOWN_SCALE) if known else (VOTERS, LENGTH, 0.0)
    return Prior(columns, mean, variance, voters, lengths if LENGTH_COLUMN in columns else {1.0: 1.0}, scale)


def averaged_weights(design: Any, target: Floats, counts: Floats, prior: Prior) -> tuple[Floats, list[Hypothesis]]:
    """Weights (d,) averaged over the hypotheses, and those that count, with their posterior probability.

    The slices' widths are tried under those of voters and length only that are not negligible without slices.

    Args:
        design: (n, d), dense or sparse.
        target: (n,) in [0, 1].
        counts: (n,) how much each row counts.
        prior: of the d weights.
    """
    grid = [
        Hypothesis(voters, length, min(SLICES), p * q)
        for voters, p in prior.voters.items()
        for length, q in prior.length.items()
    ]
    tried = _weighed(design, target, counts, prior, grid)
    if any(part == "slice" for part, *_ in prior.columns):
        grid = [
            replace(h, slices=width, probability=prior.voters[h.voters] * prior.length[h.length] * p)
            for h, _ in tried
            for width, p in SLICES.items()
        ]
        tried = _weighed(design, target, counts, prior, grid)
    weights = np.sum([h.probability * w for h, w in tried], axis=0)
    return np.asarray(weights), [h for h, _ in tried]


def weights_under(hypotheses: list[Hypothesis], design: Any, target: Floats, counts: Floats, prior: Prior) -> Floats:
    """Weights (d,) averaged over `hypotheses` with their probabilities, whatever the evidence."""
    parts = [h.probability * fit_under(h, design, target, counts, prior)[0] for h in hypotheses]
    return np.asarray(np.sum(parts, axis=0))


def fit_under(
    hypothesis: Hypothesis, design: Any, target: Floats, counts: Floats, prior: Prior
) -> tuple[Floats, float]:
    """Most probable weights (d,) under `hypothesis`, and log P(labels | hypothesis)."""
    variance = prior.of(hypothesis)
    if not prior.scale:
        fit = fit_logistic(design, target, counts, prior.mean, variance, TOLERANCE)
        return fit.weights, fit.evidence
    # s is one more column, the log-odds by the prior mean, and the others are what e adds to it.
    along = np.asarray(design @ prior.mean)[:, None]
    columns = sparse.hstack([design, along]).tocsr() if sparse.issparse(design) else np.hstack([design, along])
    mean = np.append(np.zeros_like(prior.mean), 1.0)
    fit = fit_logistic(columns, target, counts, mean, np.append(variance, prior.scale), TOLERANCE)
    return fit.weights[:-1] + fit.weights[-1] * prior.mean, fit.evidence


def _weighed(
    design: Any, target: Floats, counts: Floats, prior: Prior, grid: list[Hypothesis]
) -> list[tuple[Hypothesis, Floats]]:
    """The hypotheses of `grid` that are not negligible, with posterior probabilities that sum to 1, and weights."""
    if sparse.issparse(design) and design.shape[0] * design.shape[1] <= MAX_DENSE:
        design = design.toarray()  # once, not for every hypothesis
    fits = [fit_under(h, design, target, counts, prior) for h in grid]
    evidence = np.array([value + np.log(h.probability) for (_, value), h in zip(fits, grid, strict=True)])
    share = np.exp(evidence - evidence.max())
    share = np.where(share < NEGLIGIBLE * share.max(), 0.0, share)
    share /= share.sum()
    return [
        (replace(h, probability=p), weights)
        for h, p, (weights, _) in zip(grid, share.tolist(), fits, strict=True)
        if p > 0
    ]

"""The share of the source's labels that are wrong, by profile likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from transforms.stats.agreement.latent_class import (
    MAX_WEIGHT,
    Parameters,
    Table,
    by_cluster,
    expectation,
    fit,
    prior_precision,
    quadrature,
)

STEPS = 20  # of the search for a bound of the interval; about five are needed
TOLERANCE = 0.02  # of a bound, in standard errors


@dataclass(frozen=True)
class ErrorRate:
    """Share of wrong labels and its interval; `coin` says that half may be wrong."""

    rate: float
    low: float
    high: float
    level: float
    coin: bool


def wrong_share(table: Table, at: Parameters, voter: int) -> float:
    """Mean probability that `voter`'s vote is not the truth, over the pairs that it voted on."""
    nodes, node_weight = quadrature(at.difficulty)
    total = votes = 0.0
    for j in np.flatnonzero(table.voter_of == voter):
        stretch = np.exp(at.difficulty * nodes * table.shares_difficulty[j])
        pull = table.shortcuts[j] @ at.shortcut[voter]
        longer = scipy.special.expit(table.length @ at.length)
        for b, (low, high) in enumerate(zip(table.starts[:-1], table.starts[1:], strict=True)):
            n = float(table.count[low:high] @ table.given[low:high, j])
            wrong = longer[b] * scipy.special.expit(-at.weight[voter] * stretch - pull[b])
            wrong = wrong + (1 - longer[b]) * scipy.special.expit(-at.weight[voter] * stretch + pull[b])
            total += n * float(node_weight @ wrong)
            votes += n
    return total / max(votes, 1.0)


def design_effect(table: Table, at: Parameters, voter: int) -> float:
    """Variance of the efficient score of w_v with prompts as units, over that with pairs as units; at least 1.

    The efficient score is what is left of the score of w_v after regression on the scores of all other parameters.
    """
    score = expectation(table, at, by_row=True).score
    assert score is not None
    others = np.arange(score.shape[1]) != voter
    nuisance, own = score[:, others], score[:, voter]
    weighted = nuisance * table.count[:, None]
    information = weighted.T @ nuisance + np.diag(prior_precision(at)[others])
    efficient = own - nuisance @ np.linalg.solve(information, weighted.T @ own)
    by_pair = float(table.count @ efficient**2)
    by_prompt = float((by_cluster(table, efficient[:, None]) ** 2).sum())
    return max(1.0, by_prompt / by_pair) if by_pair > 0 else 1.0


def profile_rate(table: Table, voter: int, begin: Parameters, *, difficulty: bool, level: float = 0.95) -> ErrorRate:
    """Error rate of `voter` with an interval by profile likelihood of its weight.

    w_v is held at a value and everything else is fitted anew, so the interval carries the uncertainty of the other
    voters, of the shortcuts and, if `difficulty`, of how unequal pairs are. A bound is where twice the log-likelihood
    has fallen by the chi-square quantile times `design_effect`. A rate of 0 is w_v at its largest value, so it can be
    inside. `coin` is set if the interval reaches w_v = 0.
    """
    best, top = fit(table, begin, flat=voter, with_difficulty=difficulty)
    drop = 0.5 * float(scipy.special.ndtri(0.5 + level / 2)) ** 2 * design_effect(table, best, voter)

    def profile(weight: float, near: Parameters) -> tuple[Parameters, float]:
        return fit(table, near, flat=voter, held=weight, with_difficulty=difficulty)

    weak, _ = _bound(profile, best, top, drop, voter, toward=0.0)
    strong, open_end = _bound(profile, best, top, drop, voter, toward=MAX_WEIGHT)
    rates = [wrong_share(table, at, voter) for at in (best, weak, strong)]
    low = 0.0 if open_end else min(rates)
    coin = bool(best.weight[voter] <= 0 or weak.weight[voter] <= 0.02)
    return ErrorRate(rates[0], low, max(rates), level, coin)


Profile = Callable[[float, Parameters], tuple[Parameters, float]]


def _bound(
    profile: Profile, best: Parameters, top: float, drop: float, voter: int, toward: float
) -> tuple[Parameters, bool]:
    """The parameters where the profile has fallen by `drop` on the way to `toward`, and whether it never does.

    The root of the fall is nearly linear in w_v, so false position (Illinois) needs few steps. Its unit is the
    standard error: `fall` is how many of them a weight is beyond the bound.
    """

    def fall(value: float) -> float:
        return float(np.sqrt(max(2 * (top - value), 0.0)) - np.sqrt(2 * drop))

    inside, outside = float(best.weight[voter]), toward
    if (outside - inside) * (1 if toward > 0 else -1) <= 0:
        return best, True
    end, value = profile(outside, best)
    at_inside, at_outside = -float(np.sqrt(2 * drop)), fall(value)
    if at_outside <= 0:
        return end, True
    near = best
    for _ in range(STEPS):
        middle = inside + (outside - inside) * at_inside / (at_inside - at_outside)
        at, value = profile(middle, near)
        beyond = fall(value)
        if abs(beyond) < TOLERANCE:
            return at, False
        if beyond < 0:
            inside, at_inside, at_outside, near = middle, beyond, at_outside / 2, at
        else:
            outside, at_outside, at_inside = middle, beyond, at_inside / 2
    return near, False

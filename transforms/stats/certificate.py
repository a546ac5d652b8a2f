"""The certificate: how accurate the published labels are, measured on a random audit.

The audit is a simple random sample of the published pairs whose answers took no part in any label
(`Queue.held_out`), so agreement on it estimates agreement on all of them without bias.

Without overlap the interval is the Jeffreys interval (Brown, Cai and DasGupta, Statistical Science 2001)
made exact for a finite population: given k of n audited labels right, the number right among the N - n
unseen ones is beta-binomial(k + 1/2, n - k + 1/2), and the bounds are its quantiles.

Where pairs have several answers, annotators are allowed to be wrong: an answer names the better response
with probability 1 - e, independently of the others. How often annotators contradict each other
identifies e, and the accuracy A of the labels follows jointly: a pair whose m answers agree with the
label k times has likelihood A (1-e)^k e^(m-k) + (1-A) e^k (1-e)^(m-k) (a one-coin Dawid-Skene model, in
which the published label is one more voter). The posterior under Jeffreys priors is computed on a grid.

Answers `tie` and `both_bad` neither confirm nor contradict a preference; pairs with no other answer are
counted as `undecided`, and accuracy is about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import logsumexp

from schemas.errors import DataError

Floats = NDArray[np.float64]

_DRAWS = 20_000
_EXACT = 2_000  # unseen pairs up to which the beta-binomial is summed rather than approximated
_MASS = 1e-9  # grid cells of less relative density are left out when the grid is refined


@dataclass(frozen=True)
class Certificate:
    """Accuracy of the published labels with an interval of probability `level`.

    `annotator_error` is None where no audited pair had two answers; then `accuracy` is agreement with one
    annotator, which understates the labels' accuracy by what the annotator gets wrong.
    `accuracy`, `low`, `high` are NaN where nothing was audited.
    """

    accuracy: float
    low: float
    high: float
    level: float
    audited: int  # pairs with a preference
    undecided: int  # audited pairs on which nobody had a preference
    answers: int
    population: int
    agreement: float  # share of answers that agree with the published label, uncorrected
    annotator_error: float | None

    def as_dict(self) -> dict[str, Any]:
        """For manifest, card and report; NaN becomes None."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(self).items()}


def certify(audit: pl.DataFrame, population: int, level: float = 0.95) -> Certificate:
    """Certify labels from an audit.

    Args:
        audit: one row per held-out answer: `pair_id`, `published` (a or b: the published label) and `answer`
            (a, b, tie or both_bad), both in terms of the stored responses.
        population: number of published pairs, audited ones included.

    Raises:
        DataError: more pairs audited than published, or a published label that is not a preference.
    """
    return _certificate(_patterns(audit), _undecided(audit), population, level, other=_EMPTY)


def certify_slices(
    audit: pl.DataFrame, sizes: Mapping[str, Mapping[str, int]], level: float = 0.95
) -> dict[str, dict[str, Certificate]]:
    """One certificate per value of each column of `sizes` (column -> value -> published pairs).

    Annotators' error is estimated from all slices, each slice's accuracy from its own answers.
    """
    out: dict[str, dict[str, Certificate]] = {}
    for column, values in sizes.items():
        out[column] = {}
        for value, size in sorted(values.items()):
            inside = (pl.col(column) == value).fill_null(False)
            part = audit.filter(inside)
            other = _patterns(audit.filter(~inside))
            out[column][value] = _certificate(_patterns(part), _undecided(part), size, level, other)
    return out


_EMPTY = np.empty((0, 3))


def _patterns(audit: pl.DataFrame) -> Floats:
    """Rows (answers m, of them agreeing k, number of pairs)."""
    if not audit["published"].is_in(["a", "b"]).all():
        raise DataError("an audited pair's published label is not a preference")
    pairs = (
        audit.filter(pl.col("answer").is_in(["a", "b"]))
        .group_by("pair_id")
        .agg(pl.len().alias("m"), (pl.col("answer") == pl.col("published")).sum().alias("k"))
    )
    counts = pairs.group_by("m", "k").agg(pl.len().alias("pairs")).sort("m", "k")
    return counts.to_numpy().astype(np.float64)


def _undecided(audit: pl.DataFrame) -> int:
    return audit.filter((~pl.col("answer").is_in(["a", "b"])).all().over("pair_id"))["pair_id"].n_unique()


def _certificate(patterns: Floats, undecided: int, population: int, level: float, other: Floats) -> Certificate:
    m, k, pairs = patterns.T
    n, answers, agreeing = int(pairs.sum()), int((m * pairs).sum()), int((k * pairs).sum())
    if n + undecided > population:
        raise DataError(f"{n + undecided} pairs audited of {population} published")
    # Pairs nobody can decide are no part of the population whose labels are right or wrong.
    decidable = round(population * n / (n + undecided)) if n else 0
    agreement = agreeing / answers if answers else float("nan")
    error: float | None = None
    if n == 0:
        accuracy = low = high = float("nan")
    elif (m >= 2).any():
        truth, error = _posterior(patterns, other, decidable)
        accuracy = float(truth.mean())
        low, high = (float(q) for q in np.quantile(truth, [(1 - level) / 2, (1 + level) / 2]))
    else:
        accuracy = agreement
        low, high = jeffreys_interval(agreeing, n, decidable, level)
    return Certificate(accuracy, low, high, level, n, undecided, answers, population, agreement, error)


def jeffreys_interval(right: int, audited: int, population: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds on the share right among `population`, given `right` of `audited` drawn without replacement.

    As usual with the Jeffreys interval the lower bound is 0 when nothing is right and the upper bound what
    is still possible when nothing is wrong.
    """
    low, high = jeffreys_bounds(np.array([right]), audited, population, level)[:, 0]
    return float(low), float(high)


def jeffreys_bounds(right: NDArray[np.int64], audited: int, population: int, level: float = 0.95) -> Floats:
    """`jeffreys_interval` of many counts at once: lower and upper bounds, shape (2, len(right))."""
    from scipy.stats import beta, betabinom  # imported here: a second of every command otherwise

    unseen = population - audited
    tails = np.array([[(1 - level) / 2], [(1 + level) / 2]])
    shape: tuple[Floats, Floats] = (np.asarray(right + 0.5), np.asarray(audited - right + 0.5))
    bounds: Floats = np.zeros((2, len(right)))
    if 0 < unseen <= _EXACT:
        bounds = np.asarray(betabinom.ppf(tails, unseen, *shape), dtype=np.float64)
    elif unseen:
        bounds = np.asarray(unseen * beta.ppf(tails, *_matched(*shape, unseen)))
    bounds[0, right == 0] = 0.0
    bounds[1, right == audited] = unseen
    return np.asarray((right + bounds) / population)


def _matched(a: Floats, b: Floats, unseen: int) -> tuple[Floats, Floats]:
    """A beta distribution with the mean and variance of beta-binomial(unseen, a, b) / unseen."""
    strength = unseen * (a + b + 1) / (a + b + unseen) - 1
    return a / (a + b) * strength, b / (a + b) * strength


def _posterior(patterns: Floats, other: Floats, population: int) -> tuple[Floats, float]:
    """Draws of the share of right labels in the population, and the posterior mean of annotators' error."""
    accuracies, errors = _grid((0.0, np.pi / 2), 150), _grid((0.0, np.pi / 4), 75)
    density = _density(patterns, other, accuracies, errors)
    rows, columns = np.nonzero(density > density.max() * _MASS)
    accuracies = _refined(accuracies, rows, 160)
    errors = _refined(errors, columns, 80)
    density = _density(patterns, other, accuracies, errors)
    rng = np.random.default_rng(0)
    cells = rng.choice(density.size, size=_DRAWS, p=(density / density.sum()).ravel())
    # Within a cell the density is flat to the eye; spread over it, the draws do not pile up on its midpoint.
    drawn = ((accuracies, cells // len(errors)), (errors, cells % len(errors)))
    a, e = (np.sin(x[i] + (rng.random(_DRAWS) - 0.5) * (x[1] - x[0])) ** 2 for x, i in drawn)
    n = int(patterns[:, 2].sum())
    right = rng.binomial(population - n, a).astype(np.float64)
    for m, k, pairs in patterns:
        correct = a * (1 - e) ** k * e ** (m - k)
        wrong = (1 - a) * e**k * (1 - e) ** (m - k)
        right += rng.binomial(int(pairs), correct / (correct + wrong))
    return right / population, float(e.mean())


def _grid(bounds: tuple[float, float], size: int) -> Floats:
    """Midpoints of equal cells in the angle t, where x = sin^2 t: uniform there is Jeffreys' prior of x."""
    edges = np.linspace(*bounds, size + 1)
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _refined(grid: Floats, used: NDArray[np.intp], size: int) -> Floats:
    half = (grid[1] - grid[0]) / 2
    return _grid((grid[used.min()] - half, grid[used.max()] + half), size)


def _density(patterns: Floats, other: Floats, accuracies: Floats, errors: Floats) -> Floats:
    """Unnormalised posterior, shape (len(accuracies), len(errors)).

    `other` are answers to pairs outside the slice: only how they split among themselves counts, which is
    the same likelihood with the label's accuracy at one half.
    """
    a, e = np.sin(accuracies)[:, None] ** 2, np.sin(errors)[None, :] ** 2
    log = _log_likelihood(patterns, a, e) + _log_likelihood(other, np.full((1, 1), 0.5), e)
    return np.asarray(np.exp(log - logsumexp(log)))


def _log_likelihood(patterns: Floats, a: Floats, e: Floats) -> Floats:
    log = np.zeros(np.broadcast_shapes(a.shape, e.shape))
    for m, k, pairs in patterns:
        log = log + pairs * np.log(a * (1 - e) ** k * e ** (m - k) + (1 - a) * e**k * (1 - e) ** (m - k))
    return log

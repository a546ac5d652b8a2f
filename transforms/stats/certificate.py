"""The certificate: how accurate the published labels are, measured on a random audit.

The audit is a simple random sample of the published pairs whose answers took no part in any label
(`Queue.held_out`), so agreement on it estimates agreement on all of them without bias.

Without overlap the interval is the Jeffreys interval (Brown, Cai and DasGupta, Statistical Science 2001)
made exact for a finite population: given k of n audited labels right, the number right among the N - n
unseen ones is beta-binomial(k + 1/2, n - k + 1/2), and the bounds are its quantiles.

Annotators are allowed to be wrong: `annotator_error` says how often, and how much they are wrong on the same pairs.
Answers to pairs whose answer is known identify both, and the accuracy of the labels follows jointly. Without known
answers annotators are taken to err independently; what they get wrong together is then not identified, and `notes_of`
says so.

Where the published probabilities of all rows are given they narrow the interval if they can (PPI++,
`prediction_powered`); the sample alone still decides where it lies.

Answers `tie` and `both_bad` neither confirm nor contradict a preference; pairs with no other answer are
counted as `undecided`, and accuracy is about the rest.

These intervals hold for one look. Whoever looks after every answer, and stops when the figure pleases, needs
`anytime_low` and `anytime_high` (`confidence_sequence`), which hold for all looks at labels that do not change in
between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.errors import DataError
from transforms.stats.annotator_error import Grid, fine_sizes, grid, wrong_answers
from transforms.stats.confidence_sequence import betting_interval
from transforms.stats.prediction_powered import Powered, Predictions, prediction_powered_mean

Floats = NDArray[np.float64]
State = Literal["AUDITED", "NOT_AUDITED"]
MIN_AUDITED = 20  # pairs with a preference, below which a slice is NOT_AUDITED

_DRAWS = 20_000
_EXACT = 2_000  # unseen pairs up to which the beta-binomial is summed rather than approximated
_MIN_POWERED = 100  # audited pairs from which the normal approximation of PPI++ is trusted
# Part of the plain interval's width that PPI++ may leave. Where annotators' error, of which predictions know nothing,
# is most of the width, taking whichever is narrower by a twentieth covered 92 % in simulations instead of 95 %.
_MATERIAL = 0.9
_SIDES = ["a", "b"]


@dataclass(frozen=True)
class Certificate:
    """Accuracy of the published labels with an interval of probability `level`.

    `annotator_error` is None where no audited pair had two answers and none was known; then `accuracy` is agreement
    with one annotator, which understates the labels' accuracy by what the annotator gets wrong.
    `accuracy`, `low`, `high` are NaN where the state is NOT_AUDITED.
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
    state: State = "AUDITED"
    known_answers: int = 0  # answers to pairs whose answer is known
    shared_difficulty: float | None = None  # rho of `annotator_error`; None: not identified
    power: float | None = None  # lambda of PPI++; None: the predictions were not used
    anytime_low: float | None = None  # of accuracy with known answers, else of agreement with one annotator
    anytime_high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For manifest, card and report; NaN becomes None."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(self).items()}


class Evidence(NamedTuple):
    """What is known besides the audited pairs.

    known: rows (answers m, of them right k, number of pairs) of pairs whose answer is known.
    predictions: of all published rows; None: not used.
    """

    known: Floats = np.empty((0, 3))
    predictions: Predictions | None = None


def certify(
    audit: pl.DataFrame,
    population: int,
    level: float = 0.95,
    known: pl.DataFrame | None = None,
    predictions: Predictions | None = None,
) -> Certificate:
    """Certify labels from an audit.

    Args:
        audit: one row per held-out answer: `pair_id`, `published` (a or b: the published label) and `answer`
            (a, b, tie or both_bad), both in terms of the stored responses; with `predictions` also `p_chosen`;
            optionally `at`, when the answer came (a string that sorts by time).
        population: number of published pairs, audited ones included.
        known: answers to pairs whose answer is known: `pair_id`, `known`, `answer`, and `at` as above.
        predictions: mean and variance of `p_chosen` of all published rows.

    Raises:
        DataError: more pairs audited than published, or a published label that is not a preference.
    """
    evidence = Evidence(_known_patterns(known), predictions)
    certificate = _certificate(audit, population, level, _EMPTY, evidence)
    low, high = _anytime(audit, known, population, level)
    return replace(certificate, anytime_low=low, anytime_high=high)


def certify_slices(
    audit: pl.DataFrame,
    sizes: Mapping[str, Mapping[str, int]],
    level: float = 0.95,
    known: pl.DataFrame | None = None,
    predictions: Mapping[str, Mapping[str, Predictions]] | None = None,
) -> dict[str, dict[str, Certificate]]:
    """One certificate per value of each column of `sizes` (column -> value -> published pairs).

    Annotators' error is estimated from all slices and known answers, each slice's accuracy from its own answers. A
    slice with fewer than `MIN_AUDITED` audited pairs is NOT_AUDITED and has no figure.
    """
    out: dict[str, dict[str, Certificate]] = {}
    patterns = _known_patterns(known)
    for column, values in sizes.items():
        out[column] = {}
        for value, size in sorted(values.items()):
            inside = (pl.col(column) == value).fill_null(False)
            other = _patterns(audit.filter(~inside))
            evidence = Evidence(patterns, None if predictions is None else predictions[column][value])
            certificate = _certificate(audit.filter(inside), size, level, other, evidence)
            out[column][value] = certificate if certificate.audited >= MIN_AUDITED else _unaudited(certificate)
    return out


def _unaudited(certificate: Certificate) -> Certificate:
    nan = float("nan")
    return replace(certificate, state="NOT_AUDITED", accuracy=nan, low=nan, high=nan, power=None)


_EMPTY = np.empty((0, 3))


def _patterns(audit: pl.DataFrame, truth: str = "published") -> Floats:
    """Rows (answers m, of them agreeing with the column `truth` k, number of pairs)."""
    pairs = (
        audit.filter(pl.col("answer").is_in(_SIDES))
        .group_by("pair_id")
        .agg(pl.len().alias("m"), (pl.col("answer") == pl.col(truth)).sum().alias("k"))
    )
    counts = pairs.group_by("m", "k").agg(pl.len().alias("pairs")).sort("m", "k")
    return counts.to_numpy().astype(np.float64)


def _known_patterns(known: pl.DataFrame | None) -> Floats:
    return _EMPTY if known is None else _patterns(known.filter(pl.col("known").is_in(_SIDES)), "known")


def _undecided(audit: pl.DataFrame) -> int:
    return audit.filter((~pl.col("answer").is_in(_SIDES)).all().over("pair_id"))["pair_id"].n_unique()


def _certificate(audit: pl.DataFrame, population: int, level: float, other: Floats, evidence: Evidence) -> Certificate:
    if not audit["published"].is_in(_SIDES).all():
        raise DataError("an audited pair's published label is not a preference")
    patterns, undecided = _patterns(audit), _undecided(audit)
    m, k, pairs = patterns.T
    n, answers, agreeing = int(pairs.sum()), int((m * pairs).sum()), int((k * pairs).sum())
    if n + undecided > population:
        raise DataError(f"{n + undecided} pairs audited of {population} published")
    known = int((evidence.known[:, 0] * evidence.known[:, 2]).sum())
    # Pairs nobody can decide are no part of the population whose labels are right or wrong.
    decidable = round(population * n / (n + undecided)) if n else 0
    agreement = agreeing / answers if answers else float("nan")
    certificate = Certificate(
        *(float("nan"),) * 3, level, n, undecided, answers, population, agreement, None, known_answers=known
    )
    if n == 0:
        return replace(certificate, state="NOT_AUDITED")
    tails = [(1 - level) / 2, (1 + level) / 2]
    powered = _powered(audit, evidence.predictions)
    if known or (m >= 2).any():
        model = _error_model(patterns, other, evidence.known)
        error, shared = float(model.error.mean()), float(model.shared.mean()) if known else None
        certificate = replace(certificate, annotator_error=error, shared_difficulty=shared)
        accuracy, low, high = _summary(model.completed(patterns, decidable), tails)
    else:
        accuracy, (low, high) = agreement, jeffreys_interval(agreeing, n, decidable, level)
    plain = replace(certificate, accuracy=accuracy, low=low, high=high)
    if powered is None or powered.gained is None:
        return plain
    if certificate.annotator_error is None:
        half = NormalDist().inv_cdf(tails[1]) * np.sqrt(powered.variance)
        low, accuracy, high = np.clip(powered.estimate + half * np.array([-1.0, 0.0, 1.0]), 0.0, 1.0)
    else:
        model = _error_model(patterns, other, evidence.known, powered.gained)
        accuracy, low, high = _summary(model.completed(patterns, decidable), tails)
    if high - low > _MATERIAL * (plain.high - plain.low):
        return plain
    return replace(plain, accuracy=float(accuracy), low=float(low), high=float(high), power=powered.power)


def _summary(draws: Floats, tails: list[float]) -> tuple[float, float, float]:
    low, high = np.quantile(draws, tails)
    return float(draws.mean()), float(low), float(high)


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


class _Draws(NamedTuple):
    """Draws of the posterior, each (draws,): accuracy of labels, annotators' error, how much of it is shared."""

    accuracy: Floats
    error: Floats
    shared: Floats
    rng: np.random.Generator

    def completed(self, patterns: Floats, population: int) -> Floats:
        """Draws of the share of right labels in the population: unseen pairs and, given their answers, audited ones."""
        n = int(patterns[:, 2].sum())
        right = self.rng.binomial(population - n, self.accuracy).astype(np.float64)
        for m, k, pairs in patterns:
            correct = self.accuracy * wrong_answers(m - k, m, self.error, self.shared)
            wrong = (1 - self.accuracy) * wrong_answers(k, m, self.error, self.shared)
            right += self.rng.binomial(int(pairs), correct / (correct + wrong))
        return right / population


def _error_model(patterns: Floats, other: Floats, known: Floats, gained: tuple[float, float] | None = None) -> _Draws:
    """Draws of the joint posterior; difficulty is shared only where known answers identify it.

    `gained` is what predictions say of agreement, mu + (1 - 2 mu) A: mean and precision of a normal observation.
    """
    shared = len(known) > 0

    def log_density(cells: Grid) -> Floats:
        log = cells.log_density(patterns, other, known)
        if gained is None:
            return log
        a, mu = np.sin(cells.accuracy)[:, None, None] ** 2, np.sin(cells.error)[None, :, None] ** 2
        mean, precision = gained
        return np.asarray(log - 0.5 * precision * (mean - mu - (1.0 - 2.0 * mu) * a) ** 2)

    coarse = grid(shared)
    fine = coarse.refined(log_density(coarse), fine_sizes(shared))
    rng = np.random.default_rng(0)
    return _Draws(*fine.drawn(log_density(fine), _DRAWS, rng), rng)


def _powered(audit: pl.DataFrame, predictions: Predictions | None) -> Powered | None:
    """PPI++ of agreement, a pair's answers averaged; None where it cannot be trusted."""
    if predictions is None or "p_chosen" not in audit.columns:
        return None
    decided = pl.col("answer").is_in(_SIDES)
    pairs = (
        audit.sort("pair_id")
        .group_by("pair_id", maintain_order=True)
        .agg((pl.col("answer") == pl.col("published")).filter(decided).mean().alias("y"), pl.col("p_chosen").first())
    )
    counts = pairs["y"].is_not_null().to_numpy()
    # All pairs right (or wrong): the sample shows no variance, which is not to say that there is none.
    if counts.sum() < _MIN_POWERED or pairs["y"].std() == 0.0:
        return None
    return prediction_powered_mean(
        pairs["y"].fill_null(0.0).to_numpy(), counts, pairs["p_chosen"].to_numpy(), predictions
    )


def _anytime(
    audit: pl.DataFrame, known: pl.DataFrame | None, population: int, level: float
) -> tuple[float | None, float | None]:
    """Bounds that hold at all times: of accuracy where there are known answers, else of agreement with one annotator.

    Each pair counts with the answer that came first. Accuracy is (agreement - mu) / (1 - 2 mu), bounded over all
    agreements and errors mu inside their own sequences, each of which misses with half the probability.
    """
    agreed = _first_answers(audit, "published")
    if not len(agreed):
        return None, None
    wrong = np.empty(0) if known is None else 1.0 - _first_answers(known.filter(pl.col("known").is_in(_SIDES)), "known")
    undecided = _undecided(audit)
    decidable = round(population * len(agreed) / (len(agreed) + undecided))
    if not len(wrong):
        return betting_interval(agreed, decidable, level)
    half = 1.0 - (1.0 - level) / 2.0
    agreement = np.array(betting_interval(agreed, decidable, half))
    mu = np.minimum(np.array(betting_interval(wrong, None, half)), 0.49)
    # Rising in agreement, monotone in mu: the extremes lie in the corners.
    corners = (agreement[:, None] - mu) / (1.0 - 2.0 * mu)
    return float(np.clip(corners.min(), 0.0, 1.0)), float(np.clip(corners.max(), 0.0, 1.0))


def _first_answers(answers: pl.DataFrame, truth: str) -> Floats:
    """1 where a pair's first answer agrees with `truth`, else 0, in the order in which they came."""
    order = [name for name in ("at", "pair_id", "answer") if name in answers.columns]
    first = (
        answers.filter(pl.col("answer").is_in(_SIDES)).sort(order).unique("pair_id", keep="first", maintain_order=True)
    )
    return np.asarray(first.select((pl.col("answer") == pl.col(truth)).cast(pl.Float64)).to_series().to_numpy())

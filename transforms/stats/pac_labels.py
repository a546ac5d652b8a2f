"""PAC labels: from which certainty on a machine's labels need no person, so that few labels of the whole are wrong.

Candes, Ilyas and Zrnic, "Probably approximately correct labels" (arXiv 2506.10908, 2025). Labels with a certainty below
a threshold u are asked of people; the others stay as they are. A random audit bounds, for every u, how many of those
that stay are wrong, and u is the lowest one at which that is at most the tolerated share. Nothing is assumed of the
certainties: if they say little, the threshold is high and many pairs are asked.

**Error of one threshold.** Of the audited pairs that stay at u, n in number, k are contradicted by every person asked
about them (two, or one). If each is wrong with probability mu <= 1/2, independently or together, a label that is wrong
with probability e is contradicted by two with probability

    c = e (1 - mu)^2 + (1 - e) mu^2,      so that      e = (c - mu^2) / (1 - 2 mu) <= (1 - sqrt(1 - 4 c)) / 2,

the largest value over all mu (at mu (1 - mu) = c). One person alone gives e <= c. With c the upper bound of Clopper and
Pearson at level 1 - alpha this bounds e without knowing mu. It takes people to be no worse on the pairs whose label is
wrong.

**Many thresholds.** Errors among all labels only grow as u falls, so thresholds are tried from the most certain pair
down and the first that fails ends it: the error exceeds the tolerated share with probability alpha at most (theorem 1
there; no correction for the number of thresholds). The first `FEWEST` audited pairs are tried at once, for fewer of
them bound nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ASK_ALL = 1.5  # a threshold above every certainty
ASK_NONE = 0.0
FEWEST = 20
_SIDES = ("a", "b")


class Audit(NamedTuple):
    """Audited pairs that no person's vote has decided, most certain first; all of shape (n,).

    Attributes:
        certainty: of the label.
        contradicted: whether every person asked about it contradicts it.
        twice: whether two people were asked about it and both prefer one response.
    """

    certainty: Floats
    contradicted: NDArray[np.bool_]
    twice: NDArray[np.bool_]


class Counts(NamedTuple):
    """What would become of the population's labels, for each of some thresholds; both of shape (thresholds,).

    Attributes:
        kept: published labels that stay as they are.
        asked: pairs whose label people give, also those asked before.
    """

    kept: NDArray[np.int64]
    asked: NDArray[np.int64]

    def with_more(self, other: Counts) -> Counts:
        """Of both parts of the population together."""
        return Counts(self.kept + other.kept, self.asked + other.asked)


class Threshold(NamedTuple):
    """Which labels are asked.

    Attributes:
        certainty: labels below it are asked; `ASK_ALL` if none can stay, `ASK_NONE` if all can.
        error: upper bound on the share of wrong labels in the end, with probability 1 - alpha.
        asked: pairs whose label people give, also those asked before.
        kept: pairs whose label stays.
    """

    certainty: float
    error: float
    asked: int
    kept: int


def audited_labels(labels: pl.DataFrame, answers: pl.DataFrame) -> Audit:
    """The audit, from its answers.

    Args:
        labels: `pair_id, label` (a or b: what stays if nobody is asked), `certainty`.
        answers: `pair_id, answer` (a, b, tie, both_bad) and `at`, when it came: the answers that touch no label. The
            first two that prefer a response count; a pair without any is undecided and left out.
    """
    pairs = (
        answers.filter(pl.col("answer").is_in(_SIDES))
        .sort("pair_id", "at", "answer")
        .group_by("pair_id", maintain_order=True)
        .agg(pl.col("answer").head(2))
        .join(labels.select("pair_id", "label", "certainty"), on="pair_id", how="inner", maintain_order="left")
        .with_columns(contradicted=~pl.col("answer").list.contains(pl.col("label")))
        .sort(["certainty", "contradicted", "pair_id"], descending=[True, True, False])
    )
    return Audit(
        pairs["certainty"].to_numpy(),
        pairs["contradicted"].to_numpy(),
        (pairs["answer"].list.len() == 2).to_numpy(),
    )


def largest_error(contradicted: Floats, twice: bool) -> Floats:
    """The largest share of wrong labels at a share `contradicted` by all people asked: two if `twice`, else one."""
    if not twice:
        return contradicted
    inside = np.sqrt(np.maximum(1.0 - 4.0 * contradicted, 0.0))
    return np.where(contradicted < 0.25, (1.0 - inside) / 2.0, 1.0)


def count_labels(labels: pl.DataFrame, audit: Audit, by_people: int = 0) -> Counts:
    """The counts that `choose_threshold` wants, of one part of the population.

    Args:
        labels: one row per pair that nobody was asked about: `certainty`, `stays` (published as it is unless it is
            asked) and `always` (asked, however certain).
        by_people: pairs that were asked.

    Returns:
        Counts for the certainty of every audited pair as threshold and, last, for `ASK_NONE`; shape (n + 1,).
    """
    at = np.append(audit.certainty, ASK_NONE)
    staying = labels.filter("stays")["certainty"].sort().to_numpy()
    others = labels.filter(~pl.col("always"))["certainty"].sort().to_numpy()
    asked = np.searchsorted(others, at, side="left") + len(labels) - len(others) + by_people
    return Counts(len(staying) - np.searchsorted(staying, at, side="left"), asked)


def choose_threshold(audit: Audit, counts: Counts, max_error: float, alpha: float = 0.05) -> Threshold:
    """The lowest threshold at which at most `max_error` of all labels are wrong, with probability 1 - `alpha`.

    Args:
        audit: n audited pairs.
        counts: of the population, `count_labels`.
    """
    from scipy.stats import beta  # imported here: a second of every command otherwise

    size = len(audit.certainty)
    kept, asked = counts
    every = Threshold(ASK_ALL, 0.0, int(asked[0] + kept[0]), 0)
    if size < FEWEST:
        return every
    # Pairs of equal certainty stay or are asked together: each counts all of them, (n,).
    n = np.searchsorted(-audit.certainty, -audit.certainty, side="right")
    wrong = np.cumsum(audit.contradicted)[n - 1]
    # If one pair was asked once, the bound for pairs asked once holds for all.
    twice = np.logical_and.accumulate(audit.twice)[n - 1]
    c = np.where(wrong < n, beta.ppf(1.0 - alpha, wrong + 1, np.maximum(n - wrong, 1)), 1.0)
    e = np.where(twice, largest_error(c, twice=True), c)
    # Below the last audited certainty the same audited pairs stay: (n + 1,).
    errors = np.append(e, e[-1]) * kept / np.maximum(kept + asked, 1)
    tried = errors[FEWEST - 1 :] <= max_error
    passed = len(tried) if tried.all() else int(np.argmin(tried))
    if not passed:
        return every
    at = FEWEST - 1 + passed - 1
    certainty = ASK_NONE if at == size else float(audit.certainty[at])
    return Threshold(certainty, float(errors[at]), int(asked[at]), int(kept[at]))

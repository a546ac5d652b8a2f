"""PAC labels: from which certainty on a machine's labels need no person, so that few labels of the whole are wrong.

Candes, Ilyas and Zrnic, "Probably approximately correct labels" (arXiv 2506.10908, 2025). Labels with a certainty below
a threshold u are asked of people; the others stay as they are. A random audit bounds, for every u, how many of those
that stay are wrong, and u is the lowest one at which that is at most the tolerated share. Nothing is assumed of the
certainties: if they say little, the threshold is high and many pairs are asked.

**Error of one threshold.** Of the audited pairs that stay at u, n in number, k are contradicted by everybody asked
about them, by two people as a rule. If each is wrong with probability mu < 1/2, a label that is wrong with probability
e is contradicted by two with probability

    c = e (1 - mu)^2 + (1 - e) mu^2,      so that      e = (c - mu^2) / (1 - 2 mu).

c is at most the upper bound of Clopper and Pearson at level 1 - alpha / 2. Two people split with probability
2 mu (1 - mu), which bounds mu in the same way, and e is at most the largest value over all mu up to there. Errors that
people share make splits rare, mu too small and e too large, so the bound holds for them too. If nobody was asked with
another, e <= c. People are taken to be no worse on pairs whose label is wrong.

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
    """Audited pairs that no person's vote has decided, most certain first; arrays of shape (n,).

    Attributes:
        certainty: of the label.
        contradicted: whether everybody asked about it contradicts it.
        twice: of how many two people's answers count.
        split: of how many of those the two disagree.
    """

    certainty: Floats
    contradicted: NDArray[np.bool_]
    twice: int
    split: int


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
        pairs.filter(pl.col("answer").list.len() == 2).height,
        pairs.filter(pl.col("answer").list.n_unique() == 2).height,
    )


def largest_error(contradicted: Floats, most_mu: float) -> Floats:
    """The largest share of wrong labels of which two people contradict a share `contradicted`, elementwise.

    Args:
        contradicted: c, in [0, 1].
        most_mu: no person is wrong more often, in [0, 1/2].

    (c - mu^2) / (1 - 2 mu) rises with mu up to mu (1 - mu) = c, where its value is mu, and falls beyond.
    """
    turning = (1.0 - np.sqrt(np.maximum(1.0 - 4.0 * contradicted, 0.0))) / 2.0
    mu = np.minimum(turning, most_mu)
    rest = 1.0 - 2.0 * mu
    error = np.divide(contradicted - mu**2, rest, out=np.ones_like(mu), where=rest > 0)
    return np.clip(np.where(turning <= most_mu, np.where(contradicted < 0.25, mu, 1.0), error), 0.0, 1.0)


def upper_bound(seen: NDArray[np.int64], n: NDArray[np.int64], alpha: float) -> Floats:
    """Clopper and Pearson's upper bound on a share of which `seen` of `n` were seen, one-sided; elementwise."""
    from scipy.stats import beta  # imported here: a second of every command otherwise

    return np.asarray(np.where(seen < n, beta.ppf(1.0 - alpha, seen + 1, np.maximum(n - seen, 1)), 1.0))


def count_labels(labels: pl.DataFrame, audit: Audit) -> Counts:
    """The counts that `choose_threshold` wants, of one part of the population.

    Args:
        labels: one row per pair that nobody was asked about: `certainty`, `stays` (published as it is unless it is
            asked) and `always` (asked, however certain).

    Returns:
        Counts for `ASK_ALL` as threshold, for the certainty of every audited pair and for `ASK_NONE`; shape (n + 2,).
    """
    at = np.concatenate([[ASK_ALL], audit.certainty, [ASK_NONE]])
    staying = labels.filter("stays")["certainty"].sort().to_numpy()
    others = labels.filter(~pl.col("always"))["certainty"].sort().to_numpy()
    asked = np.searchsorted(others, at, side="left") + len(labels) - len(others)
    return Counts(len(staying) - np.searchsorted(staying, at, side="left"), asked)


def choose_threshold(
    audit: Audit, counts: Counts, max_error: float, alpha: float = 0.05, disputed: int = 0
) -> Threshold:
    """The lowest threshold at which at most `max_error` of all labels are wrong, with probability 1 - `alpha`.

    Args:
        audit: n audited pairs; fewer than `FEWEST` let no label stay.
        counts: of the population, `count_labels`.
        disputed: labels beside those counted that stay although people contradict them or split; all count as wrong.
    """
    size = len(audit.certainty)
    every = Threshold(ASK_ALL, disputed / max(int(counts.asked[0]) + disputed, 1), int(counts.asked[0]), 0)
    if size < FEWEST:
        return every
    kept, asked = counts.kept[1:], counts.asked[1:]
    # Pairs of equal certainty stay or are asked together: each counts all of them, (n,).
    n = np.searchsorted(-audit.certainty, -audit.certainty, side="right")
    wrong = np.cumsum(audit.contradicted, dtype=np.int64)[n - 1]
    if audit.twice:
        split = upper_bound(np.array([audit.split]), np.array([audit.twice]), alpha / 2)[0]
        most_mu = (1.0 - np.sqrt(max(1.0 - 2.0 * split, 0.0))) / 2.0
        e = largest_error(upper_bound(wrong, n, alpha / 2), most_mu)
    else:
        e = upper_bound(wrong, n, alpha)
    # Below the last audited certainty the same audited pairs stay: (n + 1,).
    errors = (np.append(e, e[-1]) * kept + disputed) / np.maximum(kept + asked + disputed, 1)
    tried = errors[FEWEST - 1 :] <= max_error
    passed = len(tried) if tried.all() else int(np.argmin(tried))
    if not passed:
        return every
    at = FEWEST - 1 + passed - 1
    certainty = ASK_NONE if at == size else float(audit.certainty[at])
    return Threshold(certainty, float(errors[at]), int(asked[at]), int(kept[at]))

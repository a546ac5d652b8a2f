"""Which voters agree more than their reliabilities explain, and how well independent voters fit at all.

Given the truth and the length, independent voters' votes are uncorrelated, so the covariance of two votes over pairs is
a_v a_w: a matrix of rank one off its diagonal (Parisi et al. 2014). Voters that share errors add to single entries
of it: rank one plus sparse (Varma et al. 2019, Ratner et al. 2019, CARE 2026). `consensus` finds the a that
explain most entries however far off the others are, so a bloc of near-copies cannot make itself the truth as it
does in a likelihood, where the largest entries count most. `misfit` then tests the fitted model (Newey 1985).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy

from transforms.stats.agreement.ballots import Ballots
from transforms.stats.agreement.latent_class import (
    PRIOR_WEIGHT,
    Floats,
    Parameters,
    Table,
    by_cluster,
    expectation,
    prior_precision,
    quadrature,
)

LEVEL = 0.01  # chance that some pair of independent voters is called dependent
MIN_COMMON = 30  # pairs two voters must share before their agreement says anything
MAX_STARTS = 600
LIMIT = 0.995  # of a correlation with the truth
CONSENSUS_VARIANCE = (
    0.5  # of log-odds about `PRIOR_WEIGHT`: few voters are right in 97%, so a bloc of copies costs more
)
CUT = 9.0  # squared z beyond which a pair of voters counts as unexplained, however far it is off
DECIDED = 0.05  # share of a moment's spread left after the fit below which it is not tested
STRONG = 0.2  # correlation of errors from which two voters are one bloc; below, they count with a discount


@dataclass(frozen=True)
class Moments:
    """Covariance of two voters' votes given the length and its standard error (inf if unknown), (V, V).

    `follows` (V,) is the root mean square over the length bins of a voter's mean vote for the longer response.
    """

    covariance: Floats
    error: Floats
    follows: Floats


@dataclass(frozen=True)
class Dependence:
    """Two voters whose errors are correlated beyond chance."""

    first: int
    second: int
    correlation: float  # of their votes given the truth
    z: float


def moments(ballots: Ballots) -> Moments:
    """`Moments` over the pairs that both voted on; votes are centred by bin, which takes the shortcuts out."""
    vote = ballots.voters_vote().astype(np.float64)
    given = vote != 0
    square_sum = np.zeros(vote.shape[1])
    for rows in ballots.bins[1:]:
        present = given[rows].sum(axis=0)
        mean = vote[rows].sum(axis=0) / np.maximum(present, 1)
        vote[rows] -= mean * given[rows]
        square_sum += present * mean**2
    follows = np.sqrt(square_sum / np.maximum(given.sum(axis=0), 1))
    common = given.T.astype(np.float64) @ given
    cross = vote.T @ vote
    square = (vote**2).T @ vote**2
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = cross / common
        error = np.sqrt(np.maximum(square / common - covariance**2, 1e-4) / common)
    unknown = common < MIN_COMMON
    return Moments(np.where(unknown, 0.0, covariance), np.where(unknown, np.inf, error), follows)


def consensus(m: Moments) -> Floats:
    """(V,) a that leave the fewest pairs of voters unexplained.

    Minimises sum f_vw min(z_vw^2, CUT) + a weak prior, z_vw = (covariance - a_v a_w) / error, by reweighted least
    squares from what each triple of voters says (a_u^2 = m_uv m_uw / m_vw). f_vw = (1 - follows_v follows_w)
    (1 - covariance^2): if two voters both follow the length, what else they agree in is likely the same shortcut,
    measured in another way; and if they nearly always agree, they are as likely one opinion as two good ones. That
    matters only where not all can be explained: consistency is then not taken for competence.
    """
    n = len(m.covariance)
    if n < 3:
        return np.full(n, np.tanh(PRIOR_WEIGHT / 2))
    inverse = np.where(np.isfinite(m.error), 1.0 / m.error**2, 0.0)
    np.fill_diagonal(inverse, 0.0)
    counts = (1.0 - np.outer(m.follows, m.follows)) * (1.0 - np.clip(m.covariance, 0.0, 1.0) ** 2)
    triples = list(combinations(range(n), 3))
    triples = triples[:: max(1, len(triples) // MAX_STARTS)]
    # (S, V): one row per start.
    a = np.full((len(triples) + 1, n), np.tanh(PRIOR_WEIGHT / 2))
    for row, triple in zip(a[1:], triples, strict=True):
        _begin(row, triple, m.covariance)
    for _ in range(30):
        for v in range(n):
            z = (m.covariance[v] - a[:, v, None] * a) ** 2 * inverse[v]
            used = np.where(z < CUT, inverse[v] * counts[v], 0.0)
            top = (used * m.covariance[v] * a).sum(axis=1) + np.tanh(PRIOR_WEIGHT / 2)
            a[:, v] = np.clip(top / ((used * a**2).sum(axis=1) + 1.0), -LIMIT, LIMIT)
    z = (m.covariance[None] - a[:, :, None] * a[:, None, :]) ** 2 * inverse[None]
    gap = 2.0 * np.arctanh(a) - PRIOR_WEIGHT
    cost = (np.minimum(z, CUT) * counts).sum(axis=(1, 2)) / 2 + np.minimum(
        0.5 * gap**2 / CONSENSUS_VARIANCE, CUT / 2
    ).sum(axis=1)
    return np.asarray(a[int(np.argmin(cost))])


def _begin(row: Floats, triple: tuple[int, ...], covariance: Floats) -> None:
    """Write the triple's own answer, and what it says of the others, into `row`."""
    u, v, w = triple
    product = covariance[u, v] * covariance[u, w] * covariance[v, w]
    if product <= 0:
        return
    root = np.sqrt(product)
    known = {u: root / abs(covariance[v, w]), v: root / abs(covariance[u, w]), w: root / abs(covariance[u, v])}
    for index, value in known.items():
        row[index] = min(value, LIMIT)
    for other in set(range(len(row))) - set(triple):
        row[other] = np.clip(np.median([covariance[other, i] / max(row[i], 0.05) for i in triple]), -LIMIT, LIMIT)


def dependences(m: Moments, a: Floats) -> list[Dependence]:
    """Pairs of voters that agree more than a_v a_w, by Bonferroni over all pairs of voters."""
    n = len(a)
    limit = float(-scipy.special.ndtri(LEVEL / max(n * (n - 1) / 2, 1)))
    found = []
    for v, w in combinations(range(n), 2):
        excess = m.covariance[v, w] - a[v] * a[w]
        z = excess / m.error[v, w]
        if z > limit:
            spread = np.sqrt(max(m.covariance[v, v] - a[v] ** 2, 0.02) * max(m.covariance[w, w] - a[w] ** 2, 0.02))
            found.append(Dependence(v, w, float(min(excess / spread, 1.0)), float(z)))
    return found


def discounts(pairs: list[Dependence], n_voters: int) -> Floats:
    """(V,) 1 / (1 + sum of a voter's correlations with the others it depends on): 1 / m for m copies."""
    shared = np.zeros(n_voters)
    for pair in pairs:
        shared[pair.first] += pair.correlation
        shared[pair.second] += pair.correlation
    return 1.0 / (1.0 + shared)


def blocs(links: list[tuple[int, int]], n_voters: int) -> list[list[int]]:
    """Voters joined by links, as sorted lists that cover all voters."""
    head = list(range(n_voters))

    def root(v: int) -> int:
        while head[v] != v:
            v = head[v]
        return v

    for first, second in links:
        a, b = sorted((root(first), root(second)))
        head[b] = a
    members: dict[int, list[int]] = {}
    for v in range(n_voters):
        members.setdefault(root(v), []).append(v)
    return sorted(members.values())


@dataclass(frozen=True)
class Misfit:
    """How far agreement is from what independent voters would show.

    Attributes:
        z: (V, V) of each pair of voters, positive where they agree more than the model says; 0 on the diagonal.
        joint: z of the agreement of four voters at a time (0 below four voters): positive where some pairs are easy
            for everyone and others hard.
        limit: |z| that one of these exceeds with probability `LEVEL` if the voters are independent.
    """

    z: Floats
    joint: float
    limit: float


def misfit(table: Table, at: Parameters) -> Misfit:
    """Conditional moment tests (Newey 1985) of y_v y_w and of the sum of all y_u y_v y_w y_x.

    The residuals of these moments are regressed on the scores of the parameters, which accounts for their having been
    fitted; the variance is that of sums over prompts.
    """
    n = table.n_voters
    pairs = list(combinations(range(n), 2))
    residual = _residuals(table, at, pairs)
    expected = expectation(table, at, by_row=True)
    score = expected.score
    assert score is not None
    weighted = score * table.count[:, None]
    information = weighted.T @ score + np.diag(prior_precision(at))
    adjusted = residual - score @ np.linalg.solve(information, weighted.T @ residual)
    total = table.count @ adjusted
    spread = np.sqrt((by_cluster(table, adjusted) ** 2).sum(axis=0))
    # Where the fit decides a moment (a voter that is never wrong), nothing is left of it to be tested but rounding.
    least = DECIDED * np.sqrt(table.count @ residual**2)
    z = total / np.sqrt(spread**2 + least**2 + 1e-12)
    matrix = np.zeros((n, n))
    for (v, w), value in zip(pairs, z[:-1], strict=True):
        matrix[v, w] = matrix[w, v] = value
    return Misfit(matrix, float(z[-1]), float(-scipy.special.ndtri(LEVEL / 2 / (len(pairs) + 1))))


def _residuals(table: Table, at: Parameters, pairs: list[tuple[int, int]]) -> Floats:
    """(M, pairs + 1) moments of each distinct row less what the model expects given who voted."""
    nodes, node_weight = quadrature(at.difficulty)
    n = table.n_voters
    pull = np.einsum("jbk,jk->jb", table.shortcuts, at.shortcut[table.voter_of])
    weight = at.weight[table.voter_of]
    stretch = np.exp(at.difficulty * nodes[:, None] * table.shares_difficulty[None, :])
    prior = table.length @ at.length
    one_hot = np.zeros((len(table.voter_of), n))
    one_hot[np.arange(len(table.voter_of)), table.voter_of] = 1.0
    out = np.zeros((len(table.count), len(pairs) + 1))
    first, second = [v for v, _ in pairs], [w for _, w in pairs]
    for b, (low, high) in enumerate(zip(table.starts[:-1], table.starts[1:], strict=True)):
        given = table.given[low:high]
        vote = (given - 2 * table.shorter[low:high]) @ one_hot
        rows = out[low:high]
        rows[:, :-1] = vote[:, first] * vote[:, second]
        rows[:, -1] = _four_at_a_time(vote)
        for side in (1.0, -1.0):
            share = 1.0 / (1.0 + np.exp(-side * prior[b]))
            for q in range(len(nodes)):
                mean = np.tanh((side * stretch[q] * weight + pull[:, b]) / 2)
                expected = (given * mean) @ one_hot
                rows[:, :-1] -= share * node_weight[q] * expected[:, first] * expected[:, second]
                rows[:, -1] -= share * node_weight[q] * _four_at_a_time(expected)
    return out


def _four_at_a_time(x: Floats) -> Floats:
    """(rows,) the sum over all sets of four columns of their product, by the recursion of symmetric polynomials."""
    sums = [np.ones(len(x)), *(np.zeros(len(x)) for _ in range(4))]
    for column in x.T:
        for order in (4, 3, 2, 1):
            sums[order] = sums[order] + sums[order - 1] * column
    return np.asarray(sums[4])


def independent(z: Misfit, units: int) -> bool:
    """Whether no test speaks against independence."""
    off = z.z[~np.eye(units, dtype=bool)]
    return bool((np.abs(off) <= z.limit).all() and abs(z.joint) <= z.limit)

"""The latent-class model of votes, its likelihood, gradient and fit.

With T = +1 if the longer response is better and -1 otherwise, and l_b the shortcuts of length of the pair's bin:

    P(T = +1 | b)             = sigmoid(gamma . l_b)
    P(vote_j = +1 | T, b, d)  = sigmoid(T w_v d^h_v + s_v . x_jb)      x_jb = (l_b, family of column j)

    w  (V,)     log-odds of a voter being right where no shortcut speaks
    s  (V, K)   how a voter follows length and its own family
    gamma (2,)  how far the longer response really is better
    d           difficulty of a pair, shared by the voters with h_v = 1: log d ~ N(0, sigma^2) (GLAD, Whitehill et
                al. 2009, with the sum over d by Gauss-Hermite quadrature); sigma = 0 is Dawid & Skene (1979) with
                symmetric errors

A voter that only follows a shortcut gets w = 0, so it says nothing of T beyond what gamma says. Votes count with a
discount c_v in (0, 1] (`dependence`), the exponent of its likelihood: copies of one voter have 1 / copies each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

from transforms.stats.agreement.ballots import Ballots

Floats = NDArray[np.float64]
PRIOR_WEIGHT, PRIOR_WEIGHT_VARIANCE = 0.8, 2.25  # of w: a voter is right in 69%, between 20 and 98%
SHORTCUT_SCALE = 0.5  # of s, which is Cauchy: most voters follow no shortcut, and a few follow nothing else
PRIOR_LENGTH_VARIANCE = 1.0  # of gamma
PRIOR_DIFFICULTY = 0.5  # sigma is half-normal with this scale
NODES = 5
MAX_WEIGHT = 8.0  # log-odds: wrong once in 3,000 votes
MAX_DIFFICULTY = 2.0


@dataclass(frozen=True)
class Parameters:
    """w (V,), s (V, K), gamma (2,) and sigma of the model above."""

    weight: Floats
    shortcut: Floats
    length: Floats
    difficulty: float = 0.0

    def vector(self) -> Floats:
        """All but sigma as one vector: w, s row by row, gamma."""
        return np.concatenate([self.weight, self.shortcut.ravel(), self.length])

    def with_vector(self, x: Floats) -> Parameters:
        """The inverse of `vector`."""
        n, k = self.shortcut.shape
        return replace(self, weight=x[:n], shortcut=x[n : n + n * k].reshape(n, k), length=x[n + n * k :])


@dataclass(frozen=True)
class Table:
    """Distinct rows of `Ballots` with how often each occurs; rows of one bin are together.

    Attributes:
        shorter: (M, J) 1 where the vote is for the shorter response.
        given: (M, J) 1 where there is a vote.
        count: (M,)
        row_of: (N,) the distinct row of each pair, and `cluster` (N,) its prompt.
        starts: (B + 1,) bins, and `length` (B, 2), as in `Ballots`.
        shortcuts: (J, B, K) x_jb.
        voter_of: (J,)
        discount: (J,) c of the column's voter.
        shares_difficulty: (J,) h of the column's voter.
    """

    shorter: Floats
    given: Floats
    count: Floats
    row_of: NDArray[np.int64]
    cluster: NDArray[np.int64]
    starts: NDArray[np.int64]
    length: Floats
    shortcuts: Floats
    voter_of: NDArray[np.int64]
    discount: Floats
    shares_difficulty: Floats
    n_voters: int


def table_of(ballots: Ballots, discount: Floats | None = None, alike: NDArray[np.bool_] | None = None) -> Table:
    """The distinct rows of `ballots`.

    Args:
        discount: (V,) c of each voter, 1 if none is given.
        alike: (V,) whether the difficulty of pairs touches the voter, everyone if none is given.
    """
    n_voters = len(ballots.names)
    discount = np.ones(n_voters) if discount is None else discount
    alike = np.ones(n_voters, dtype=bool) if alike is None else alike
    coded = np.column_stack([ballots.bin_of.astype(np.int8), ballots.vote])
    packed = np.ascontiguousarray(coded).view(np.dtype((np.void, coded.shape[1]))).ravel()
    _, first, row_of, count = np.unique(packed, return_index=True, return_inverse=True, return_counts=True)
    # np.unique sorts by bytes, whose first is the bin: rows of a bin stay together.
    votes, bin_of = ballots.vote[first], ballots.bin_of[first]
    n_bins = len(ballots.length)
    uses_family = bool(np.any(ballots.family))
    n_columns = len(ballots.voter_of)
    shortcuts = np.zeros((n_columns, n_bins, 3 if uses_family else 2))
    shortcuts[:, :, :2] = ballots.length[None, :, :]
    if uses_family:
        shortcuts[:, :, 2] = ballots.family[:, None]
    return Table(
        shorter=(votes < 0).astype(np.float64),
        given=(votes != 0).astype(np.float64),
        count=count.astype(np.float64),
        row_of=row_of.ravel(),
        cluster=ballots.cluster,
        starts=np.searchsorted(bin_of, np.arange(n_bins + 1)).astype(np.int64),
        length=ballots.length,
        shortcuts=shortcuts,
        voter_of=ballots.voter_of,
        discount=discount[ballots.voter_of],
        shares_difficulty=alike[ballots.voter_of].astype(np.float64),
        n_voters=n_voters,
    )


def start(table: Table, agreement: Floats | None = None) -> Parameters:
    """Where the search starts: `agreement` (V,), correlations of votes with the truth, and how votes follow the length.

    Without `agreement` the weights are the prior's. A voter that follows the length must not start as one that is
    right, or the length becomes the truth.
    """
    n, k = table.n_voters, table.shortcuts.shape[2]
    weight = np.full(n, PRIOR_WEIGHT) if agreement is None else 2.0 * np.arctanh(np.clip(agreement, -0.95, 0.95))
    # (B, J) votes for the longer and all votes in each bin.
    edges = list(zip(table.starts[:-1], table.starts[1:], strict=True))
    given = np.stack([table.count[a:b] @ table.given[a:b] for a, b in edges])
    shorter = np.stack([table.count[a:b] @ table.shorter[a:b] for a, b in edges])
    shortcut = np.zeros((n, k))
    for v in range(n):
        own = table.voter_of == v
        votes, fewer = given[:, own].sum(axis=1), shorter[:, own].sum(axis=1)
        log_odds = np.log((votes - fewer + 1.0) / (fewer + 1.0))
        x = table.length * np.sqrt(votes)[:, None]
        shortcut[v, :2] = np.linalg.solve(x.T @ x + np.eye(2), x.T @ (log_odds * np.sqrt(votes)))
    return Parameters(weight, np.clip(shortcut, -4.0, 4.0), np.zeros(2))


def mirrored(at: Parameters) -> Parameters:
    """The same likelihood with the truth exchanged: only the prior knows that voters are better than chance."""
    return replace(at, weight=-at.weight, length=-at.length)


@dataclass(frozen=True)
class Expectation:
    """What one pass over the table gives.

    Attributes:
        log_likelihood: (M,) of each distinct row.
        longer: (M,) P(T = +1 | votes).
        score: (M, P) gradient of `log_likelihood` by `Parameters.vector`, if asked for.
        gradient: (P + 1,) its sum over pairs, the last entry by sigma.
    """

    log_likelihood: Floats
    longer: Floats
    gradient: Floats
    score: Floats | None


def by_cluster(table: Table, values: Floats) -> Floats:
    """(C, X) sums over the pairs of each prompt of `values` (M, X) of distinct rows."""
    shape = (int(table.cluster.max()) + 1 if len(table.cluster) else 0, len(table.count))
    ones = np.ones(len(table.cluster))
    members = scipy.sparse.coo_matrix((ones, (table.cluster, table.row_of)), shape=shape).tocsr()
    return np.asarray(members @ values)


def quadrature(difficulty: float) -> tuple[Floats, Floats]:
    """Nodes z (Q,) and weights of a standard normal; one node if there is no difficulty."""
    if difficulty <= 0:
        return np.zeros(1), np.ones(1)
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    return z, weight / weight.sum()


def expectation(table: Table, at: Parameters, *, by_row: bool = False, by_difficulty: bool = False) -> Expectation:
    """Likelihood, posterior and gradient (by Fisher's identity) of every distinct row."""
    nodes, node_weight = quadrature(at.difficulty if at.difficulty > 0 else (1e-9 if by_difficulty else 0.0))
    n, k, m = table.n_voters, table.shortcuts.shape[2], len(table.count)
    weight = at.weight[table.voter_of]
    # (J, B): what the shortcuts say of a vote.
    pull = np.einsum("jbk,jk->jb", table.shortcuts, at.shortcut[table.voter_of])
    prior = table.length @ at.length
    # (Q, J): what difficulty makes of a weight.
    stretch = np.exp(at.difficulty * nodes[:, None] * table.shares_difficulty[None, :])
    log_likelihood, longer = np.zeros(m), np.zeros(m)
    gradient = np.zeros(n + n * k + 2 + 1)
    score = np.zeros((m, n + n * k + 2)) if by_row else None
    for b, (low, high) in enumerate(zip(table.starts[:-1], table.starts[1:], strict=True)):
        if low == high:
            continue
        shorter, given, count = table.shorter[low:high], table.given[low:high], table.count[low:high]
        # Classes c are (T, node): eta (2, Q, J), joint (2, Q, rows).
        eta = np.stack([stretch * weight, -stretch * weight]) + pull[None, None, :, b]
        log_longer = scipy.special.log_expit(eta) * table.discount
        log_odds = eta * table.discount
        joint = log_longer @ given.T - log_odds @ shorter.T
        joint += np.log(node_weight)[None, :, None]
        joint += scipy.special.log_expit(np.array([prior[b], -prior[b]]))[:, None, None]
        peak = joint.max(axis=(0, 1))
        posterior = np.exp(joint - peak)
        mass = posterior.sum(axis=(0, 1))
        posterior /= mass
        total = peak + np.log(mass)
        log_likelihood[low:high] = total
        longer[low:high] = posterior[0].sum(axis=0)
        # Score of eta of class c and column j: c_j (1[vote = +1] - sigmoid(eta)) where there is a vote.
        counted = posterior * count
        residual = (counted @ (given - shorter) - (counted @ given) * scipy.special.expit(eta)) * table.discount
        by_weight = ((residual[0] - residual[1]) * stretch).sum(axis=0)
        by_pull = residual.sum(axis=(0, 1))
        np.add.at(gradient, table.voter_of, by_weight)
        for c in range(k):
            np.add.at(gradient, n + table.voter_of * k + c, by_pull * table.shortcuts[:, b, c])
        gap = float((counted[0].sum()) - count.sum() * scipy.special.expit(prior[b]))
        gradient[n + n * k : n + n * k + 2] += gap * table.length[b]
        by_sigma = (residual[0] - residual[1]) * stretch * nodes[:, None] * weight * table.shares_difficulty
        gradient[-1] += float(by_sigma.sum())
        if score is not None:
            own = score[low:high]
            # (rows, J): the same sums without the sum over rows.
            mean_longer = np.einsum("tqr,tqj->trj", posterior, scipy.special.expit(eta) * stretch)
            plus, minus = np.einsum("tqr,qj->trj", posterior, stretch)
            chosen = given - shorter
            row_weight = (chosen * (plus - minus) - given * (mean_longer[0] - mean_longer[1])) * table.discount
            expected = np.einsum("tqr,tqj->rj", posterior, scipy.special.expit(eta))
            row_pull = (chosen - given * expected) * table.discount
            for j, v in enumerate(table.voter_of):
                own[:, v] += row_weight[:, j]
                for c in range(k):
                    own[:, n + v * k + c] += row_pull[:, j] * table.shortcuts[j, b, c]
            own[:, n + n * k :] = (longer[low:high] - scipy.special.expit(prior[b]))[:, None] * table.length[b]
    return Expectation(log_likelihood, longer, gradient, score)


def penalty(at: Parameters, flat: int | None = None) -> tuple[float, Floats]:
    """Minus the log prior and its gradient by (w, s, gamma, sigma); `flat` names a voter whose w has no prior."""
    gap = at.weight - PRIOR_WEIGHT
    if flat is not None:
        gap[flat] = 0.0
    value = 0.5 * (
        np.sum(gap**2) / PRIOR_WEIGHT_VARIANCE
        + 2.0 * np.sum(np.log1p((at.shortcut / SHORTCUT_SCALE) ** 2))
        + np.sum(at.length**2) / PRIOR_LENGTH_VARIANCE
        + (at.difficulty / PRIOR_DIFFICULTY) ** 2
    )
    parts = (
        gap / PRIOR_WEIGHT_VARIANCE,
        (2.0 * at.shortcut / (SHORTCUT_SCALE**2 + at.shortcut**2)).ravel(),
        at.length / PRIOR_LENGTH_VARIANCE,
        [at.difficulty / PRIOR_DIFFICULTY**2],
    )
    return float(value), np.concatenate(parts)


def prior_precision(at: Parameters) -> Floats:
    """(P,) second derivative of `penalty` by `Parameters.vector`; of the Cauchy prior, its slope over s."""
    return np.concatenate(
        [
            np.full(at.weight.size, 1.0 / PRIOR_WEIGHT_VARIANCE),
            (2.0 / (SHORTCUT_SCALE**2 + at.shortcut**2)).ravel(),
            np.full(at.length.size, 1.0 / PRIOR_LENGTH_VARIANCE),
        ]
    )


def fit(
    table: Table,
    begin: Parameters | None = None,
    *,
    flat: int | None = None,
    held: float | None = None,
    with_difficulty: bool = False,
) -> tuple[Parameters, float]:
    """Most probable parameters and their penalised log-likelihood.

    Args:
        begin: where the search starts.
        flat: a voter whose weight has no prior, because its likelihood is profiled.
        held: the value at which that weight is held.
        with_difficulty: whether sigma is learned too, else it stays what `begin` says.
    """
    begin = start(table) if begin is None else begin
    n_free = len(begin.vector())
    x0 = np.append(begin.vector(), begin.difficulty)
    free = np.ones(n_free + 1, dtype=bool)
    free[-1] = with_difficulty
    if flat is not None and held is not None:
        x0[flat] = held
        free[flat] = False
    if with_difficulty and x0[-1] <= 0:
        x0[-1] = 0.3

    def loss(y: Floats) -> tuple[float, Floats]:
        x = x0.copy()
        x[free] = y
        at = replace(begin.with_vector(x[:n_free].copy()), difficulty=float(x[-1]))
        expected = expectation(table, at, by_difficulty=with_difficulty)
        value, slope = penalty(at, flat)
        return value - float(table.count @ expected.log_likelihood), (slope - expected.gradient)[free]

    limits = [(-MAX_WEIGHT, MAX_WEIGHT)] * n_free + [(0.0, MAX_DIFFICULTY)]
    bounds = [limit for limit, is_free in zip(limits, free, strict=True) if is_free]
    options = {"maxiter": 500, "ftol": 1e-9, "gtol": 1e-3}
    found = scipy.optimize.minimize(loss, x0[free], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    x = x0.copy()
    x[free] = found.x
    return replace(begin.with_vector(x[:n_free].copy()), difficulty=float(x[-1])), -float(found.fun)


def fit_upright(table: Table, begin: Parameters, flat: int | None = None) -> Parameters:
    """`fit` from `begin`, and from its result mirrored where that is more probable."""
    at, value = fit(table, begin, flat=flat)
    if penalty(mirrored(at), flat)[0] < penalty(at, flat)[0]:
        other, turned = fit(table, mirrored(at), flat=flat)
        return other if turned > value else at
    return at


def fit_against(vote: Floats, pull: Floats, longer: Floats) -> tuple[Floats, float]:
    """One voter's (w, s) given what the others say of the truth, and the standard error of w.

    Args:
        vote: (n,) +1 for the longer response, -1 for the shorter; pairs without a vote left out.
        pull: (n, K) shortcuts.
        longer: (n,) P(T = +1) by voters that this one does not depend on.

    Maximises sum log of sum over T of P(T) sigmoid(vote (T w + s . x)), whose answer is right however good the others
    are, where agreement with the others' majority would be too low.
    """
    k = pull.shape[1]
    mean = np.r_[PRIOR_WEIGHT, np.zeros(k)]
    precision = np.r_[1.0 / PRIOR_WEIGHT_VARIANCE, np.full(k, 2.0 / SHORTCUT_SCALE**2)]

    def terms(x: Floats) -> tuple[Floats, Floats]:
        along = pull @ x[1:]
        likely = np.stack(
            [
                longer * scipy.special.expit(vote * (along + x[0])),
                (1 - longer) * scipy.special.expit(vote * (along - x[0])),
            ]
        )
        total = likely.sum(axis=0) + 1e-300
        share = likely / total
        rest = (
            vote
            * share
            * (1 - np.stack([scipy.special.expit(vote * (along + x[0])), scipy.special.expit(vote * (along - x[0]))]))
        )
        score = np.column_stack([rest[0] - rest[1], rest.sum(axis=0)[:, None] * pull])
        return np.log(total), score

    def loss(x: Floats) -> tuple[float, Floats]:
        value, score = terms(x)
        gap = x[0] - PRIOR_WEIGHT
        cost = 0.5 * gap**2 / PRIOR_WEIGHT_VARIANCE + float(np.log1p((x[1:] / SHORTCUT_SCALE) ** 2).sum())
        slope = np.r_[gap / PRIOR_WEIGHT_VARIANCE, 2.0 * x[1:] / (SHORTCUT_SCALE**2 + x[1:] ** 2)]
        return cost - float(value.sum()), slope - score.sum(axis=0)

    bounds = [(-MAX_WEIGHT, MAX_WEIGHT)] * (k + 1)
    found = scipy.optimize.minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds)
    _, score = terms(found.x)
    covariance = np.linalg.inv(score.T @ score + np.diag(precision))
    return np.asarray(found.x), float(np.sqrt(covariance[0, 0]))


def weight_covariance(table: Table, at: Parameters) -> Floats:
    """(V, V) sandwich covariance of the weights, prompts being the units (Huber 1967, White 1982)."""
    score = expectation(table, at, by_row=True).score
    assert score is not None
    information = (score * table.count[:, None]).T @ score + np.diag(prior_precision(at))
    inverse = np.linalg.inv(information)
    sums = by_cluster(table, score)
    meat = sums.T @ sums + np.diag(prior_precision(at))
    n = table.n_voters
    return np.asarray((inverse @ meat @ inverse)[:n, :n])

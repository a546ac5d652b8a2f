"""What the other pairs of a prompt say about a pair: transitivity as evidence.

If c beats b and a beats c, then a probably beats b. Within one prompt each response i has a reward
r_i = o_i + d_i, where o_i is what the reward heads give it and d_i ~ N(0, spread^2) what they miss. A
label of (i, j) is a with probability flip + (1 - 2 flip) sigmoid(r_i - r_j). The posterior of d is found
by Fisher scoring (Laplace approximation), always without the label of the pair in question: pairs of
a prompt are held out in turn, so a pair's own label never speaks for itself. Prompts of many responses are solved
by sparse matrices (`large_prompts`).

The model is ours: a Bradley-Terry model with random item effects around a feature-based mean, with the
symmetric-flip likelihood of CrowdBT (Chen et al., WSDM 2013).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from transforms.scorers.heads.graph import Index, PairGraph, components, near_order
from transforms.scorers.heads.large_prompts import Array, posterior_of_large, score_and_information

_STEPS = 15
_SMALL = 64  # responses up to which a prompt's posterior is found by dense matrices, many prompts at a time
_CHUNK = 4_000_000  # numbers held at once by one batch of prompts


@dataclass(frozen=True)
class Siblings:
    """Parameters of the model. spread 0 means: responses of a prompt share nothing beyond the heads."""

    scale: float = 1.0  # what a head's margin is multiplied with
    spread: float = 0.0  # prior standard deviation of what the heads miss, log-odds
    flip: float = 0.0  # probability that a label is wrong, [0, 0.5)


def held_out_margins(
    offsets: Array, labels: Array, graph: PairGraph, model: Siblings, max_folds: int = 20, tolerance: float = 1e-8
) -> tuple[Array, Array]:
    """Posterior mean and variance of r(a) - r(b) of each pair given the labels of the prompt's other pairs.

    Args:
        offsets: heads' margins r(a) - r(b), shape (n,), antisymmetric in a and b.
        labels: soft labels in [0, 1] (1: a better), NaN where there is none, shape (n,).
        graph: the pairs; all pairs of a prompt must be given together.
        max_folds: a prompt with more pairs than this is held out in so many folds instead of one by one.
        tolerance: largest last Newton step.

    Returns:
        mean (n,) and variance (n,) in log-odds. Row order does not matter; exchanging a and b negates the mean.
    """
    mean = model.scale * np.asarray(offsets, dtype=np.float64)
    variance = np.full(len(mean), 2.0 * model.spread**2)
    if model.spread <= 0.0:
        return mean, variance
    labels = np.asarray(labels, dtype=np.float64)
    problems = _problems(graph)
    for rows, incidence in _batches([p for p in problems if p.n_items <= _SMALL], max_folds):
        shift, var = _posterior(mean[rows], labels[rows], incidence, model, max_folds, tolerance)
        mean[rows] += shift
        variance[rows] = var
    for problem in (p for p in problems if p.n_items > _SMALL):
        rows = np.array(problem.rows)
        shift, var = posterior_of_large(
            mean[rows], labels[rows], np.array(problem.ends), model, max_folds, tolerance, _STEPS
        )
        mean[rows] += shift
        variance[rows] = var
    return mean, variance


def fit_siblings(offsets: Array, labels: Array, graph: PairGraph, max_pairs: int = 2000) -> Siblings:
    """Scale, spread and flip rate under which held-out labels are most probable (maximum a posteriori).

    `offsets` must come from heads that did not see the pairs. Weak priors decide only where the labels say
    nothing (a flip rate cannot be told from small margins, a spread needs prompts with several pairs):
    log-normal on scale and spread, and on the flip rate one with its mode at 0.245, inside the 20-40% that the
    literature finds in preference data (Gao et al. 2024). Whole prompts are taken, in order of their id, until
    there are `max_pairs`; of a prompt with more, whole components, and of a component with more, neighbours.
    """
    rows = _few_prompts(graph, ~np.isnan(labels), max_pairs)
    if not len(rows):
        return Siblings()
    offsets, labels = np.asarray(offsets)[rows], np.asarray(labels)[rows]
    graph = graph.take(rows)
    connected = bool(_problems(graph))

    def loss(parameters: Array) -> float:
        model = _unpack(parameters, connected)
        mean, variance = held_out_margins(offsets, labels, graph, model, max_folds=8, tolerance=1e-3)
        log_loss = noisy_log_loss(predictive(mean, variance), labels, model.flip)
        share = 2.0 * model.flip
        prior = 0.5 * (parameters @ parameters - parameters[1] ** 2) - np.log(share) - np.log1p(-share)
        return len(labels) * log_loss + float(prior)

    start = np.array([0.0, np.log(0.25 / 0.75), 0.0])[: 3 if connected else 2]
    steps = np.vstack([start, start + np.diag([0.7, 1.0, 0.7][: len(start)])])
    optimum = scipy.optimize.minimize(
        loss, start, method="Nelder-Mead", options={"initial_simplex": steps, "maxfev": 60, "xatol": 0.03, "fatol": 0.1}
    )
    return _unpack(optimum.x, connected)


def predictive(mean: Array, variance: Array) -> Array:
    """P(a better) with the uncertainty of the margin integrated out (probit approximation, MacKay 1992)."""
    return np.asarray(scipy.special.expit(mean / np.sqrt(1.0 + np.pi * variance / 8.0)))


def noisy_log_loss(p: Array, labels: Array, flip: float) -> float:
    """Mean cross entropy of the noisy labels under P(a better) = p and flip rate `flip`; NaN labels are left out."""
    known = ~np.isnan(labels)
    if not known.any():
        return 0.0
    noisy = np.clip(flip + (1.0 - 2.0 * flip) * p[known], 1e-9, 1.0 - 1e-9)
    y = labels[known]
    return float(-(y * np.log(noisy) + (1.0 - y) * np.log(1.0 - noisy)).mean())


def _unpack(parameters: Array, connected: bool) -> Siblings:
    spread = float(np.exp(np.clip(parameters[2], -5.0, 3.0))) if connected else 0.0
    return Siblings(
        float(np.exp(np.clip(parameters[0], -5.0, 5.0))), spread, 0.49 * float(scipy.special.expit(parameters[1]))
    )


def _few_prompts(graph: PairGraph, known: NDArray[np.bool_], max_pairs: int) -> list[int]:
    """Rows of labelled pairs of whole prompts, about `max_pairs`; of a larger prompt only so many."""
    rows: list[int] = []
    for _, members in sorted(_by_prompt(graph).items()):
        if len(rows) >= max_pairs:
            break
        labelled = [row for row in members if known[row]]
        rows.extend(labelled if len(labelled) <= max_pairs else _neighbours(graph, labelled, max_pairs - len(rows)))
    return rows


def _neighbours(graph: PairGraph, rows: list[int], most: int) -> list[int]:
    """About `most` of a prompt's pairs that share many responses: in the order of components and of neighbours."""
    items, ends = _numbered(graph, rows)
    edges = np.array(ends)
    place = np.zeros(len(items), dtype=np.int64)
    place[np.concatenate([near_order(edges, nodes, len(items)) for nodes in components(edges, len(items))])] = (
        np.arange(len(items))
    )
    # A pair is inside the first k responses of the order once both of its ends are.
    last = place[edges].max(axis=1)
    return [rows[i] for i in np.argsort(last, kind="stable")[:most]]


class _Problem(NamedTuple):
    """Pairs that say something of each other: n rows, the numbers of their two responses, how many responses."""

    rows: list[int]
    ends: list[tuple[int, int]]
    n_items: int


def _by_prompt(graph: PairGraph) -> dict[str, list[int]]:
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(graph.prompts):
        by_prompt[prompt].append(row)
    return by_prompt


def _numbered(graph: PairGraph, rows: list[int]) -> tuple[list[str], list[tuple[int, int]]]:
    """The responses of some rows, sorted, and each row's pair as numbers of them."""
    items = sorted({response for row in rows for response in (graph.first[row], graph.second[row])})
    number = {response: i for i, response in enumerate(items)}
    return items, [(number[graph.first[row]], number[graph.second[row]]) for row in rows]


def _problems(graph: PairGraph) -> list[_Problem]:
    """One problem per prompt, of a large prompt one per component.

    Prompts in which no two pairs share a response are left out: their pairs say nothing of each other.
    """
    first, second = graph.first, graph.second
    problems: list[_Problem] = []
    for _, rows in sorted(_by_prompt(graph).items()):
        # Sorted by content, so that folds (and with them results) do not depend on row order.
        members = sorted(rows, key=lambda r: (min(first[r], second[r]), max(first[r], second[r])))
        items, ends = _numbered(graph, members)
        problem = _Problem(members, ends, len(items))
        problems.extend([problem] if len(items) <= _SMALL else _components(problem))
    return [problem for problem in problems if problem.n_items < 2 * len(problem.rows)]


def _components(problem: _Problem) -> Iterator[_Problem]:
    """The problem in parts that say nothing of each other."""
    edges = np.array(problem.ends)
    number, component = (np.zeros(problem.n_items, dtype=np.int64) for _ in range(2))
    sizes: list[int] = []
    for nodes in components(edges, problem.n_items):
        component[nodes], number[nodes] = len(sizes), np.arange(len(nodes))
        sizes.append(len(nodes))
    component_of = component[edges[:, 0]]
    by_component = np.split(np.argsort(component_of, kind="stable"), np.cumsum(np.bincount(component_of))[:-1])
    for size, part in zip(sizes, by_component, strict=True):
        ends = [(int(a), int(b)) for a, b in number[edges[part]]]
        yield _Problem([problem.rows[i] for i in part], ends, size)


def _batches(problems: list[_Problem], max_folds: int) -> Iterator[tuple[Index, Array]]:
    """Problems of one shape together: rows (p, n) and incidence matrices (p, n, items), +1 for a and -1 for b."""
    shapes: dict[tuple[int, int], list[_Problem]] = defaultdict(list)
    for problem in problems:
        shapes[len(problem.rows), problem.n_items].append(problem)
    for (n, n_items), alike in sorted(shapes.items()):
        size = max(1, _CHUNK // (min(n, max_folds) * n_items * max(n, n_items)))
        for start in range(0, len(alike), size):
            batch = alike[start : start + size]
            ends = np.array([problem.ends for problem in batch])
            incidence = np.eye(n_items)[ends[..., 0]] - np.eye(n_items)[ends[..., 1]]
            yield np.array([problem.rows for problem in batch]), incidence


def _posterior(
    offset: Array, labels: Array, incidence: Array, model: Siblings, max_folds: int, tolerance: float
) -> tuple[Array, Array]:
    """Shift and variance (p, n) of each pair's margin, from the labels outside the pair's fold."""
    n_prompts, n, n_items = incidence.shape
    n_folds = min(n, max_folds)
    fold = np.arange(n) % n_folds
    known = ~np.isnan(labels)
    y = np.where(known, labels, 0.5)[:, None, :]
    used = (fold[None, :] != np.arange(n_folds)[:, None])[None] & known[:, None, :]
    precision = np.eye(n_items) / model.spread**2
    effects: Array = np.zeros((n_prompts, n_folds, n_items))
    transposed = incidence.transpose(0, 2, 1)
    for _ in range(_STEPS):
        z = offset[:, None, :] + effects @ transposed
        score, fisher = score_and_information(z, y, used, model.flip)
        information = precision + (transposed[:, None] * fisher[:, :, None, :]) @ incidence[:, None]
        gradient = score @ incidence - effects / model.spread**2
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        effects = effects + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < tolerance:
            break
    contrast = incidence[:, None] @ np.linalg.inv(information)
    var = (contrast * incidence[:, None]).sum(axis=-1)
    shift = effects @ transposed
    pairs = np.arange(n)
    return shift[:, fold, pairs], var[:, fold, pairs]

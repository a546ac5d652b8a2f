"""Prompts of many responses: the sparse posterior is the dense one, and folds divide what is too large for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from transforms.scorers.heads.graph import PairGraph
from transforms.scorers.heads.large_prompts import posterior_of_large
from transforms.scorers.heads.partition import MIN_DIVIDED, Partition
from transforms.scorers.heads.siblings import Siblings, fit_siblings, held_out_margins

Sample = tuple[np.ndarray, np.ndarray, PairGraph]


def random_prompt(seed: int, n_items: int, n_pairs: int) -> Sample:
    """A prompt whose distinct pairs are drawn at random: offsets, labels with some missing, graph."""
    rng = np.random.default_rng(seed)
    ends = np.array(list(itertools.combinations(range(n_items), 2)))
    ends = rng.permuted(rng.permutation(ends)[:n_pairs], axis=1)
    labels = np.where(rng.random(n_pairs) < 0.1, np.nan, rng.integers(0, 2, n_pairs))
    graph = PairGraph(["p"] * n_pairs, [f"r{i:05}" for i in ends[:, 0]], [f"r{j:05}" for j in ends[:, 1]])
    return rng.normal(size=n_pairs), labels, graph


def clusters(n_clusters: int, size: int) -> PairGraph:
    """Every two responses of a cluster meet; clusters share no response."""
    ends = [(c, i, j) for c in range(n_clusters) for i, j in itertools.combinations(range(size), 2)]
    return PairGraph(["p"] * len(ends), [f"c{c}r{i}" for c, i, _ in ends], [f"c{c}r{j}" for c, _, j in ends])


def mode_and_variance(z: np.ndarray, y: np.ndarray, ends: np.ndarray, model: Siblings) -> tuple[np.ndarray, np.ndarray]:
    """Mode of the responses' effects by a generic optimiser, and their covariance by Fisher's information there."""
    n_items = int(ends.max()) + 1
    d_rows = np.eye(n_items)[ends[:, 0]] - np.eye(n_items)[ends[:, 1]]
    known = ~np.isnan(y)

    def loss(d: np.ndarray) -> float:
        margins = np.where(y > 0.5, 1.0, -1.0) * (z + d_rows @ d)
        noisy = model.flip + (1 - 2 * model.flip) * expit(margins)
        return float(-np.log(noisy[known]).sum() + d @ d / (2 * model.spread**2))

    d = minimize(loss, np.zeros(n_items), method="BFGS", options={"gtol": 1e-8}).x
    p = expit(z + d_rows @ d)
    noisy = model.flip + (1 - 2 * model.flip) * p
    fisher = known * ((1 - 2 * model.flip) * p * (1 - p)) ** 2 / (noisy * (1 - noisy))
    return d, np.linalg.inv(d_rows.T @ (fisher[:, None] * d_rows) + np.eye(n_items) / model.spread**2)


@given(seed=st.integers(0, 1000), flip=st.sampled_from([0.0, 0.1]))
@settings(max_examples=8, deadline=None)
def test_the_sparse_posterior_is_that_of_a_generic_optimiser(seed: int, flip: float) -> None:
    model = Siblings(1.0, 0.8, flip)
    z, y, graph = random_prompt(seed, 9, 25)
    ends = np.array([[int(r[1:]) for r in pair] for pair in zip(graph.first, graph.second, strict=True)])
    shift, variance = posterior_of_large(z, y, ends, model, 5, 1e-9, 40)
    for fold in range(5):
        held = np.arange(len(z)) % 5 == fold
        d, covariance = mode_and_variance(z, np.where(held, np.nan, y), ends, model)
        a, b = ends[held].T
        assert shift[held] == pytest.approx(d[a] - d[b], abs=2e-3)
        expected = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        assert variance[held] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("probes", [False, True])
def test_a_large_component_is_solved_as_a_small_one_is(monkeypatch: pytest.MonkeyPatch, probes: bool) -> None:
    """The same prompt by dense matrices, and by sparse ones as if it were large."""
    offsets, labels, graph = random_prompt(3, 40, 300)
    model = Siblings(1.2, 0.9, 0.1)
    mean, variance = held_out_margins(offsets, labels, graph, model)
    monkeypatch.setattr("transforms.scorers.heads.siblings._SMALL", 10)
    if probes:
        monkeypatch.setattr("transforms.scorers.heads.large_prompts._EXACT", 10)
    again, again_variance = held_out_margins(offsets, labels, graph, model)
    # Which pairs are held out together differs where a component is a part of the prompt; here it is all of it.
    assert again == pytest.approx(mean, abs=1e-6)
    if probes:  # 256 draws: a standard error of 9 % each
        assert np.mean(again_variance / variance) == pytest.approx(1.0, abs=0.05)
        assert np.abs(again_variance / variance - 1.0).max() < 0.5
    else:
        assert again_variance == pytest.approx(variance, rel=1e-5)


@pytest.mark.parametrize("n_items", [80, 400])
def test_laws_of_a_large_prompt(n_items: int) -> None:
    """Own label, sides and row order, with exact variances and with drawn ones."""
    offsets, labels, graph = random_prompt(1, n_items, 900)
    model = Siblings(1.0, 1.0, 0.1)
    mean, variance = held_out_margins(offsets, labels, graph, model)
    mirror, _ = held_out_margins(-offsets, 1 - labels, PairGraph(graph.prompts, graph.second, graph.first), model)
    assert mirror == pytest.approx(-mean, abs=1e-8)
    order = np.random.default_rng(0).permutation(len(mean))
    again, again_variance = held_out_margins(offsets[order], labels[order], graph.take(order.tolist()), model)
    assert again == pytest.approx(mean[order], abs=1e-8)
    assert again_variance == pytest.approx(variance[order], abs=1e-8)
    one = int(np.flatnonzero(~np.isnan(labels))[7])
    turned = labels.copy()
    turned[one] = 1 - turned[one]
    after, after_variance = held_out_margins(offsets, turned, graph, model)
    assert after[one] == pytest.approx(mean[one], abs=1e-9)
    assert after_variance[one] == pytest.approx(variance[one], abs=1e-9)
    assert np.abs(after - mean).max() > 1e-3


def test_components_of_a_prompt_are_as_good_as_prompts() -> None:
    graph = clusters(12, 7)
    rng = np.random.default_rng(0)
    offsets, labels = rng.normal(size=len(graph.prompts)), rng.integers(0, 2, len(graph.prompts)).astype(float)
    apart = PairGraph([first[: first.index("r")] for first in graph.first], graph.first, graph.second)
    mean, variance = held_out_margins(offsets, labels, graph, Siblings(1.0, 1.0, 0.1))
    expected, expected_variance = held_out_margins(offsets, labels, apart, Siblings(1.0, 1.0, 0.1))
    assert mean == pytest.approx(expected, abs=1e-6)
    assert variance == pytest.approx(expected_variance, abs=1e-6)


def test_a_large_prompt_teaches_the_parameters_that_small_ones_do() -> None:
    rng = np.random.default_rng(5)
    rewards = rng.normal(scale=1.5, size=300)
    ends = np.array([rng.choice(300, 2, replace=False) for _ in range(6000)])
    labels = (rng.random(len(ends)) < expit(rewards[ends[:, 0]] - rewards[ends[:, 1]])).astype(float)
    graph = PairGraph(["p"] * len(ends), [f"r{i}" for i in ends[:, 0]], [f"r{j}" for j in ends[:, 1]])
    model = fit_siblings(np.zeros(len(ends)), labels, graph)
    assert 1.0 < model.spread < 2.2
    assert model.flip < 0.08


def scattered(seed: int) -> PairGraph:
    return random_prompt(seed, 60, 300)[2]


@pytest.mark.parametrize("make", [scattered, lambda seed: clusters(20, 6 + seed % 3)])
@given(seed=st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_folds_of_a_divided_prompt(make: Callable[[int], PairGraph], seed: int) -> None:
    graph = make(seed)
    groups = list(graph.prompts)
    partition = Partition.of(groups, graph, 5, seed)
    folds = partition.folds(groups, graph)
    # A response lies in one fold: pairs in that fold's training have neither end there.
    fold_of: dict[str, int] = {}
    for first, second, pair in zip(graph.first, graph.second, folds, strict=True):
        part = partition.divided["p"]
        both = sorted(part.folds[part.parts[response]] for response in (first, second))
        assert list(pair) == both
        fold_of |= {response: part.folds[part.parts[response]] for response in (first, second)}
    for fold in range(5):
        training = [i for i in range(len(groups)) if fold not in folds[i]]
        assert len(training) > 0.45 * len(groups)
        seen = {end for i in training for end in (graph.first[i], graph.second[i])}
        assert not seen & {response for response, own in fold_of.items() if own == fold}
    # Neither sides nor order matter.
    mirrored = PairGraph(graph.prompts, graph.second, graph.first)
    assert Partition.of(groups, mirrored, 5, seed) == partition
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    assert Partition.of(groups, graph.take(order), 5, seed) == partition


def test_components_are_not_cut_where_they_fit() -> None:
    graph = clusters(20, 6)
    partition = Partition.of(graph.prompts, graph, 5, 0)
    folds = partition.folds(graph.prompts, graph)
    assert (folds[:, 0] == folds[:, 1]).all()
    assert len(set(partition.units(graph.prompts, graph))) == 20
    assert np.bincount(folds[:, 0]).max() <= 0.21 * len(folds)


def test_small_prompts_and_groups_of_the_user_stay_whole() -> None:
    graph = clusters(1, 10)
    assert len(graph.prompts) < MIN_DIVIDED
    assert Partition.of(graph.prompts, graph, 5, 0).divided == {}
    large = clusters(1, 30)
    assert Partition.of(large.prompts, large, 5, 0, whole=True).divided == {}
    many = PairGraph([f"p{i % 40}" for i in range(435)], large.first, large.second)
    assert Partition.of(many.prompts, many, 5, 0).divided == {}
    assert Partition.of(many.prompts, many, 5, 0).units(many.prompts, many) == list(many.prompts)

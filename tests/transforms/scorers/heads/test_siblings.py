from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from transforms.scorers.heads.siblings import (
    PairGraph,
    Siblings,
    fit_siblings,
    held_out_margins,
    noisy_log_loss,
    predictive,
)

MODEL = Siblings(scale=1.3, spread=0.9, flip=0.0)


def one_prompt(seed: int, n_items: int = 5) -> tuple[np.ndarray, np.ndarray, PairGraph]:
    rng = np.random.default_rng(seed)
    edges = [e for e in itertools.combinations(range(n_items), 2) if rng.random() < 0.8] or [(0, 1)]
    graph = PairGraph(["p"] * len(edges), [f"r{i}" for i, _ in edges], [f"r{j}" for _, j in edges])
    return rng.normal(size=len(edges)), rng.integers(0, 2, size=len(edges)).astype(float), graph


def oracle(offsets: np.ndarray, labels: np.ndarray, graph: PairGraph, k: int, model: Siblings) -> float:
    """Posterior mode of pair k's margin by a generic optimiser on the other pairs alone."""
    items = sorted(set(graph.first) | set(graph.second))
    a = np.array([items.index(i) for i in graph.first])
    b = np.array([items.index(i) for i in graph.second])
    others = np.arange(len(a)) != k

    def loss(d: np.ndarray) -> float:
        z = (model.scale * offsets + d[a] - d[b])[others]
        y = labels[others]
        likelihood = model.flip + (1 - 2 * model.flip) * expit(np.where(y > 0.5, z, -z))
        return float(-np.log(likelihood).sum() + d @ d / (2 * model.spread**2))

    d = minimize(loss, np.zeros(len(items)), method="BFGS", options={"gtol": 1e-8}).x
    return float(model.scale * offsets[k] + d[a[k]] - d[b[k]])


@given(seed=st.integers(0, 1000), flip=st.sampled_from([0.0, 0.05]))
@settings(max_examples=15, deadline=None)
def test_margins_are_those_of_refitting_without_the_pair(seed: int, flip: float) -> None:
    model = Siblings(MODEL.scale, MODEL.spread, flip)
    offsets, labels, graph = one_prompt(seed)
    mean, _ = held_out_margins(offsets, labels, graph, model)
    for k in range(len(offsets)):
        assert mean[k] == pytest.approx(oracle(offsets, labels, graph, k, model), abs=2e-3)


@given(seed=st.integers(0, 1000), max_folds=st.sampled_from([3, 20]))
@settings(max_examples=25, deadline=None)
def test_a_label_never_speaks_for_its_own_pair(seed: int, max_folds: int) -> None:
    offsets, labels, graph = one_prompt(seed)
    before, var_before = held_out_margins(offsets, labels, graph, MODEL, max_folds)
    k = seed % len(labels)
    labels[k] = 1 - labels[k]
    after, var_after = held_out_margins(offsets, labels, graph, MODEL, max_folds)
    assert after[k] == pytest.approx(before[k], abs=1e-9)
    assert var_after[k] == pytest.approx(var_before[k], abs=1e-9)


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_exchanging_sides_negates_and_order_does_not_matter(seed: int) -> None:
    offsets, labels, graph = one_prompt(seed)
    model = Siblings(1.0, 1.0, 0.1)
    mean, var = held_out_margins(offsets, labels, graph, model)
    mirror, _ = held_out_margins(-offsets, 1 - labels, PairGraph(graph.prompts, graph.second, graph.first), model)
    assert np.allclose(mirror, -mean, atol=1e-8)
    order = np.random.default_rng(seed).permutation(len(mean))
    shuffled = PairGraph(*([column[i] for i in order] for column in (graph.prompts, graph.first, graph.second)))
    again, var_again = held_out_margins(offsets[order], labels[order], shuffled, model)
    assert np.allclose(again, mean[order], atol=1e-8)
    assert np.allclose(var_again, var[order], atol=1e-8)


def test_transitivity_is_evidence() -> None:
    graph = PairGraph(["p"] * 3, ["x", "y", "x"], ["y", "z", "z"])
    mean, variance = held_out_margins(np.zeros(3), np.array([1.0, 1.0, np.nan]), graph, Siblings(1.0, 1.5, 0.0))
    assert mean[2] > 0.5
    assert variance[2] < 2 * 1.5**2


def test_other_prompts_and_disjoint_pairs_say_nothing() -> None:
    graph = PairGraph(["p", "q", "q"], ["x", "x", "u"], ["y", "y", "v"])
    offsets = np.array([0.3, -0.2, 0.1])
    mean, variance = held_out_margins(offsets, np.ones(3), graph, Siblings(2.0, 1.0, 0.0))
    assert np.allclose(mean, 2.0 * offsets)
    assert np.allclose(variance, 2.0)


def simulate(n_prompts: int, spread: float, flip: float, seed: int) -> tuple[np.ndarray, np.ndarray, PairGraph]:
    rng = np.random.default_rng(seed)
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    labels = []
    for p in range(n_prompts):
        rewards = rng.normal(scale=spread, size=6)
        for i, j in itertools.combinations(range(6), 2):
            better = rng.random() < expit(rewards[i] - rewards[j])
            labels.append(float(better != (rng.random() < flip)))
            for column, value in zip(columns, (f"p{p}", f"r{i}", f"r{j}"), strict=True):
                column.append(value)
    return np.zeros(len(labels)), np.array(labels), PairGraph(*columns)


def test_fit_tells_transitive_labels_from_coin_flips() -> None:
    strong = fit_siblings(*simulate(60, spread=2.0, flip=0.0, seed=1))
    assert 1.2 < strong.spread < 3.5
    assert strong.flip < 0.06
    offsets, labels, graph = simulate(60, spread=0.0, flip=0.0, seed=2)
    coins = fit_siblings(offsets, labels, graph)
    p = predictive(*held_out_margins(offsets, labels, graph, coins))
    assert noisy_log_loss(p, labels, coins.flip) < np.log(2) + 0.003


def test_held_out_likelihood_of_the_fit_beats_ignoring_siblings() -> None:
    offsets, labels, graph = simulate(60, spread=2.0, flip=0.2, seed=3)
    model = fit_siblings(offsets, labels, graph)
    fitted = noisy_log_loss(predictive(*held_out_margins(offsets, labels, graph, model)), labels, model.flip)
    assert fitted < np.log(2) - 0.02


def test_nothing_labelled_means_nothing_learnt() -> None:
    graph = PairGraph(["p", "p"], ["x", "y"], ["y", "z"])
    assert fit_siblings(np.zeros(2), np.full(2, np.nan), graph) == Siblings()

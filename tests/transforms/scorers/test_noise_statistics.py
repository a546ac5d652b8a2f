"""Ensemble moments, flip rate, peer review and consistency against slow oracles."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from scipy.stats import kendalltau

from tests.benchmarks.quality.noise_methods import percentiles, posterior_right, toward_label
from transforms.scorers._cream import consistency, kendall_tau, soft_label
from transforms.scorers._crm import peer_review, select_low_loss
from transforms.stats.ensemble import moments
from transforms.stats.noise_rate import FlipRate, estimate_flip_rate

numbers = st.floats(-5, 5, allow_nan=False)


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=numbers))
def test_moments_are_mean_and_population_deviation(margins: np.ndarray) -> None:
    mu, sigma = moments(margins)
    for row, m, s in zip(margins.tolist(), mu, sigma, strict=True):
        assert m == pytest.approx(statistics.fmean(row), abs=1e-9)
        assert s == pytest.approx(statistics.pstdev(row), abs=1e-7)


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_percentile_counts_what_lies_below_and_half_of_equals(values: list[int]) -> None:
    got = percentiles(np.array(values, dtype=float))
    for value, percentile in zip(values, got, strict=True):
        below, equal = sum(v < value for v in values), sum(v == value for v in values)
        assert percentile == pytest.approx((below + 0.5 * equal) / len(values))


def test_margin_toward_the_label() -> None:
    assert toward_label(np.array([2.0, 2.0, 2.0]), np.array([1.0, 0.0, 0.5])).tolist() == [2.0, -2.0, 0.0]


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12, unique_by=(lambda t: t[0], lambda t: t[1])))
def test_kendall_tau_without_ties_is_scipys(scores: list[tuple[float, float]]) -> None:
    first, second = np.array(scores).T
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)


@given(st.dictionaries(st.text(max_size=3), numbers, min_size=2, max_size=8))
def test_consistency_is_one_for_equal_and_the_complement_for_reversed_rankings(scores: dict[str, float]) -> None:
    reverse = {key: -value for key, value in scores.items()}
    tied = sum(x == y for x, y in itertools.combinations(scores.values(), 2))
    pairs = len(scores) * (len(scores) - 1) / 2
    assert consistency(scores, scores) == pytest.approx(1 - tied / pairs / 2)
    assert consistency(scores, reverse) == pytest.approx(tied / pairs / 2)


def test_consistency_of_nothing_shared_is_no_evidence() -> None:
    assert consistency({"x": 1.0}, {"x": 2.0}) == 0.5
    assert soft_label(1.0, 0.0, 0.8) == pytest.approx(1 - soft_label(0.0, 1.0, 0.8))
    assert soft_label(1.0, 1.0, 0.8) == 0.5


def noisy_labels(flip: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    margins = rng.normal(scale=4.0, size=n)
    labels = (rng.random(n) < expit(margins)) != (rng.random(n) < flip)
    return margins, labels.astype(float)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_flip_rate_is_found_where_margins_are_informative(flip: float) -> None:
    margins, labels = noisy_labels(flip, 6000, seed=int(100 * flip))
    rate = estimate_flip_rate(margins / 3.0, labels)
    assert rate.flip == pytest.approx(flip, abs=0.04)


def test_flip_rate_does_not_depend_on_sides_or_units() -> None:
    margins, labels = noisy_labels(0.2, 2000, seed=9)
    rate = estimate_flip_rate(margins, labels)
    mirror = estimate_flip_rate(-margins, 1 - labels)
    assert mirror.flip == pytest.approx(rate.flip, abs=1e-9)
    assert estimate_flip_rate(10 * margins, labels).flip == pytest.approx(rate.flip, abs=1e-6)


def test_flip_rate_of_nothing() -> None:
    assert estimate_flip_rate(np.zeros(0), np.zeros(0)).flip == 0.0
    assert estimate_flip_rate(np.zeros(4), np.ones(4)).flip == 0.0


def test_posterior_right_is_bayes_rule() -> None:
    rate = FlipRate(0.2, 1.0)
    p = expit(1.5)
    wanted = p * 0.8 / (p * 0.8 + (1 - p) * 0.2)
    got = posterior_right(np.array([1.5, -1.5]), np.array([1.0, 0.0]), rate)
    assert got == pytest.approx([wanted, wanted])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.floats(0.05, 1.0))
def test_low_loss_selection_is_a_sorted_prefix(losses: list[int], share: float) -> None:
    mask = select_low_loss(np.array(losses, dtype=float), share)
    order = sorted(range(len(losses)), key=lambda i: (losses[i], i))
    assert set(np.flatnonzero(mask)) == set(order[: int(np.ceil(share * len(losses)))])


@pytest.mark.parametrize("seed", range(3))
def test_peers_select_cleaner_pairs_than_they_were_given(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1500, 6))
    truth = (x @ (4 * rng.normal(size=6)) > 0).astype(float)
    flipped = rng.random(1500) < 0.3
    y = np.where(flipped, 1 - truth, truth)
    peers = peer_review(x, y, np.ones(1500), rng.integers(0, 2, 1500), ridge=0.01)
    assert peers.flip == pytest.approx(0.3, abs=0.1)
    for head, selected in zip(peers.weights, peers.selected, strict=True):
        assert flipped[selected].mean() < 0.15
        assert ((x @ head > 0) == (truth > 0.5)).mean() > 0.85


def test_peer_review_mirrors() -> None:
    rng = np.random.default_rng(4)
    x, halves = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    y = (x[:, 0] + rng.normal(size=200) > 0).astype(float)
    one, two = (peer_review(s * x, label, np.ones(200), halves, 0.1) for s, label in ((1, y), (-1, 1 - y)))
    assert np.allclose(one.weights, two.weights, atol=1e-5)
    assert (one.selected == two.selected).all()

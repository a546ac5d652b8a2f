from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from transforms.scorers.heads.shrinkage import PRIORS, Prior, evidence, in_proportion

Array = NDArray[np.float64]
squares = st.lists(st.floats(0.0, 10.0), max_size=6).map(np.array)


@given(squares, squares, squares, st.sampled_from(PRIORS))
def test_a_prior_spreads_margins_by_what_it_says(e: Array, i: Array, s: Array, prior: Prior) -> None:
    deviations = prior.deviations((e, i, s))
    assert len(deviations) == len(e) + len(i) + len(s)
    assert np.isfinite(deviations).all()
    ends = np.cumsum([len(e), len(i)])
    for spread, square, part in zip(prior.spread, (e, i, s), np.split(deviations, ends), strict=True):
        wanted = spread**2 if (square > 1e-6).any() else None
        if wanted is not None:
            assert part**2 @ square == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_a_larger_power_trusts_small_directions_less() -> None:
    square = np.array([1.0, 0.1, 0.01])
    flat, steep = (Prior((1.0, 0.0, 0.0), power).deviations((square, square, square))[:3] for power in (0, 3))
    assert np.allclose(flat, flat[0])
    assert steep[0] > flat[0]
    assert steep[2] < 0.01 * flat[2]


@given(st.integers(0, 10_000), st.floats(0.2, 3.0))
@settings(max_examples=20, deadline=None)
def test_evidence_is_the_integral_over_the_prior(seed: int, deviation: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=60)
    y = (rng.random(60) < expit(x)).astype(float)

    def log_likelihood(w: float) -> float:
        return float((y * x * w - np.logaddexp(0.0, x * w)).sum())

    top = max(log_likelihood(w) for w in np.linspace(-6, 6, 241))
    area, _ = quad(
        lambda w: np.exp(log_likelihood(w) - top) * norm.pdf(w, scale=deviation), -12, 12, points=[0.0, 1.0], limit=400
    )
    got = evidence(x[:, None], y, np.ones(60), np.array([deviation]))
    assert got == pytest.approx(np.log(area) + top, abs=0.1)  # Laplace's approximation with sixty labels


def test_evidence_without_features_is_that_of_a_coin() -> None:
    got = evidence(np.ones((4, 1)), np.array([0.0, 1.0, 1.0, 0.5]), np.full(4, 2.0), np.zeros(1))
    assert got == pytest.approx(-8.0 * np.log(2.0))


def test_evidence_prefers_the_prior_the_weights_came_from() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 40)) * np.linspace(1.0, 0.1, 40)
    y = (rng.random(3000) < expit(2.0 * x[:, 0])).astype(float)
    square = (x**2).mean(axis=0)
    none = np.zeros(0)
    flat, steep = (
        evidence(x, y, np.ones(3000), Prior((2.0, 0.0, 0.0), k).deviations((square, none, none))) for k in (0, 3)
    )
    assert steep > flat + 10.0


@given(st.lists(st.floats(-20.0, 0.0), min_size=1, max_size=8), st.integers(1, 200))
def test_heads_are_dealt_in_proportion_to_probability(evidences: list[float], n: int) -> None:
    values = np.array(evidences)
    dealt = in_proportion(values, n)
    assert len(dealt) == n
    shares = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    counts = np.bincount(dealt, minlength=len(values))
    assert np.abs(counts - n * shares).max() <= 1.0 + 1e-6

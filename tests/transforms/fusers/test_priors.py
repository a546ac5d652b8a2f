"""The hypotheses of the posterior's prior, against integrals and a general optimiser."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, log_expit
from scipy.stats import norm

from transforms.fusers.posterior.design import LENGTH, Column
from transforms.fusers.posterior.priors import Hypothesis, Prior, averaged_weights, fit_under, prior_of, weights_under

VOTER: Column = ("own", "sign", "j", "")
COLUMNS: list[Column] = [("own", "sign", "j", ""), ("own", "sign", "k", ""), ("slice", "kind", "g", "x"), LENGTH]


def drawn(n: int, weights: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes of -1 and 1, and labels of P(1) = expit(votes . weights)."""
    rng = np.random.default_rng(seed)
    design = rng.choice([-1.0, 1.0], (n, len(weights)))
    return design, (rng.random(n) < expit(design @ np.array(weights))).astype(float)


def prior(*, known: bool, means: tuple[float, ...] = (0.8, 0.4, 0.0, 0.0)) -> Prior:
    return prior_of(COLUMNS[: len(means)], np.array(means), np.full(len(means), 0.5), known=known)


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize(
    ("width", "mean", "truth"), [(0.1, 0.7, 0.9), (1.0, 0.7, -0.5), (3.0, 1.5, 1.5), (1.0, 0.0, 1)]
)
def test_evidence_is_the_integral_over_the_prior(scale: float, width: float, mean: float, truth: float) -> None:
    design, labels = drawn(40, [truth], seed=3)
    belief = Prior([VOTER], np.array([mean]), np.array([0.4]), {width: 1.0}, {1.0: 1.0}, scale)
    _, evidence = fit_under(Hypothesis(width, 1.0, 1.0, 1.0), design, labels, np.ones(40), belief)
    # s mean + e with s ~ N(1, scale) and e ~ N(0, .4 width) is one normal number.
    spread = np.sqrt(0.4 * width + scale * mean**2)

    def likelihood(w: float) -> float:
        return float(np.exp(log_expit(design[:, 0] * w * (2 * labels - 1)).sum()) * norm.pdf(w, mean, spread))

    integral = quad(likelihood, mean - 8 * spread, mean + 8 * spread, epsabs=0.0, epsrel=1e-8, limit=200)[0]
    assert evidence == pytest.approx(np.log(integral), abs=0.03)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_weights_are_the_most_probable_under_the_prior_covariance(as_sparse: bool) -> None:
    design, labels = drawn(60, [0.5, 1.0, 0.2, -0.3], seed=5)
    belief, hypothesis = prior(known=True), Hypothesis(0.3, 1.0, 0.1, 1.0)
    covariance = np.diag(0.5 * np.array([0.3, 0.3, 0.1, 1.0])) + belief.scale * np.outer(belief.mean, belief.mean)
    precision = np.linalg.inv(covariance)

    def loss(w: np.ndarray) -> float:
        off = w - belief.mean
        return float(-log_expit(design @ w * (2 * labels - 1)).sum() + off @ precision @ off / 2)

    expected = minimize(loss, belief.mean, method="BFGS", options={"gtol": 1e-8}).x
    shape = csr_matrix(design) if as_sparse else design
    assert fit_under(hypothesis, shape, labels, np.ones(60), belief)[0] == pytest.approx(expected, abs=1e-4)


def test_the_mean_over_hypotheses_is_the_mean_over_the_posterior() -> None:
    """One voter, so that the posterior mean of its weight under all widths is a quotient of integrals."""
    design, labels = drawn(50, [1.2], seed=8)
    belief = prior_of([VOTER], np.array([0.6]), np.array([0.5]), known=False)
    weights, _ = averaged_weights(design, labels, np.ones(50), belief)

    def mixture(w: float) -> float:
        return sum(p * norm.pdf(w, 0.6, np.sqrt(0.5 * width)) for width, p in belief.voters.items())

    def posterior(w: float) -> float:
        return float(np.exp(log_expit(design[:, 0] * w * (2 * labels - 1)).sum() + 25) * mixture(w))

    # Near the prior mean the narrow hypotheses are steep: the integrals are told where.
    total, moment = (
        sum(quad(f, low, high)[0] for low, high in pairwise((-6, 0, 0.5, 0.7, 1.2, 6)))
        for f in (posterior, lambda w: w * posterior(w))
    )
    assert weights[0] == pytest.approx(moment / total, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), known=st.booleans())
def test_exchanging_responses_and_reordering_rows_change_no_weight(seed: int, known: bool) -> None:
    design, labels = drawn(40, [0.8, 0.4, 0.1, 0.3], seed)
    counts, belief = np.ones(40), prior(known=known)
    weights, used = averaged_weights(design, labels, counts, belief)
    assert sum(h.probability for h in used) == pytest.approx(1.0)
    rows = np.random.default_rng(seed).permutation(40)
    sign = np.random.default_rng(seed).choice([-1.0, 1.0], 40)
    mirrored = np.where(sign > 0, labels, 1 - labels)
    for other in (
        averaged_weights(design[rows], labels[rows], counts, belief)[0],
        averaged_weights(design * sign[:, None], mirrored, counts, belief)[0],
        weights_under(used, design, labels, counts, belief),
    ):
        assert other == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("known", [False, True])
def test_labels_that_fit_the_prior_narrow_it_and_labels_that_contradict_widen_it(known: bool) -> None:
    def width(truth: list[float]) -> float:
        design, labels = drawn(400, truth, seed=11)
        _, used = averaged_weights(design, labels, np.ones(400), prior(known=known))
        return sum(h.probability * np.log(h.voters) for h in used)

    assert width([0.8, 0.4, 0.0, 0.0]) < width([-0.8, 2.0, 0.0, 0.0]) - np.log(3)


def test_a_prior_that_is_too_sure_of_all_is_scaled_and_not_bent() -> None:
    """Voters half as good as agreement says: few labels find that, and keep their proportions."""
    truth, misses, bends = np.array([1.0, 0.5]), [], []
    for seed in range(10):
        design, labels = drawn(60, truth.tolist(), seed)
        belief = prior(known=True, means=(2.0, 1.0))
        scaled, _ = averaged_weights(design, labels, np.ones(60), belief)
        fixed, _ = averaged_weights(design, labels, np.ones(60), replace(belief, scale=0.0))
        misses.append(np.abs(scaled - truth).sum() - np.abs(fixed - truth).sum())
        bends.append(abs(np.log(scaled[0] / scaled[1] / 2)))
    assert np.mean(misses) < -0.2
    assert np.mean(bends) < 0.25

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from transforms.stats.bradley_terry import Loss, deviance, fit_head, objective

LOSSES = [Loss("logistic"), Loss("corrected", flip=0.3), Loss("gce", q=0.7), Loss("gce", q=1.0)]


def problem(seed: int, n: int = 60, d: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = rng.choice([0.0, 0.5, 1.0], size=n)
    return x, y, rng.uniform(0.1, 2.0, size=n)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name}-{loss.flip}-{loss.q}")
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_gradient_agrees_with_finite_differences(loss: Loss, seed: int) -> None:
    x, y, weight = problem(seed)
    w = np.random.default_rng(seed + 1).normal(size=x.shape[1])
    _, gradient = objective(w, x, y, weight, 0.1, loss)
    step = 1e-6
    for i in range(len(w)):
        e = np.eye(len(w))[i] * step
        up, down = (objective(w + s * e, x, y, weight, 0.1, loss)[0] for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name}-{loss.flip}-{loss.q}")
def test_exchanging_a_and_b_negates_nothing_but_the_margins(loss: Loss) -> None:
    x, y, weight = problem(3)
    assert np.allclose(fit_head(-x, 1 - y, weight, 0.1, loss), fit_head(x, y, weight, 0.1, loss), atol=1e-6)


def test_optimum_is_that_of_scikit_learn_without_intercept() -> None:
    x, y, weight = problem(5, n=300)
    y = np.where(y >= 0.5, 1.0, 0.0)
    ridge = 0.05
    oracle = LogisticRegression(C=1 / (ridge * weight.sum()), fit_intercept=False, tol=1e-10, max_iter=5000)
    oracle.fit(x, y, sample_weight=weight)
    assert np.allclose(fit_head(x, y, weight, ridge), oracle.coef_[0], atol=1e-4)


def test_corrected_loss_without_flips_is_the_logistic_loss() -> None:
    z, y = np.linspace(-5, 5, 21), np.linspace(0, 1, 21)
    for got, wanted in zip(Loss("corrected").value_and_slope(z, y), Loss().value_and_slope(z, y), strict=True):
        assert np.allclose(got, wanted)


def test_deviance_of_knowing_nothing_is_log_two() -> None:
    assert deviance(np.zeros(5), np.array([0, 1, 0.5, 1, 0]), np.ones(5)) == pytest.approx(np.log(2))


def test_no_labels_prefer_neither_side() -> None:
    assert not fit_head(np.ones((3, 2)), np.ones(3), np.zeros(3), 0.1).any()
    assert not fit_head(np.ones((0, 2)), np.ones(0), np.ones(0), 0.1).any()

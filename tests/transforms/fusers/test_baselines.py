"""The baselines against independent implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import approx_fprime, minimize

from tests.transforms.fusers.vote_makers import simulated
from transforms.plugins.registry import find, names
from transforms.stats.calibration import expected_calibration_error, fit_temperature
from transforms.stats.logistic import fit_logistic

crowdkit = pytest.importorskip("crowdkit.aggregation", reason="crowd-kit is not installed")


def fuse(name: str, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    plugin = find("fusers", name)
    fuser = plugin(name, plugin.Config(), 0)
    out: pl.DataFrame = fuser.apply(fuser.fit(votes, pairs), votes, pairs)
    return out


def as_pandas(votes: pl.DataFrame) -> Any:
    return votes.select(pl.col("pair_id").alias("task"), pl.col("voter").alias("worker"), "label").to_pandas()


def test_all_baselines_are_registered() -> None:
    assert set(names("fusers")) == {"posterior", "majority", "dawid_skene", "glad", "stack"}


def test_majority_takes_the_side_with_more_votes() -> None:
    votes, pairs, _ = simulated(200, {"x": 0.6, "y": 0.7, "z": 0.8}, seed=1)
    counts = votes.group_by("pair_id").agg((pl.col("label") == "a").sum().alias("n"))
    joined = fuse("majority", votes, pairs).join(counts, on="pair_id")
    assert (
        joined["label"] == joined.select(pl.when(pl.col("n") > 1).then(pl.lit("a")).otherwise(pl.lit("b"))).to_series()
    ).all()


def test_dawid_skene_is_crowd_kits() -> None:
    votes, pairs, _ = simulated(300, {"x": 0.6, "y": 0.7, "z": 0.9, "w": 0.85}, seed=2)
    theirs = crowdkit.DawidSkene(n_iter=100).fit_predict_proba(as_pandas(votes))
    ours = fuse("dawid_skene", votes, pairs)
    p = theirs.loc[ours["pair_id"].to_list(), "a"].to_numpy()
    inside = (p > 0.001) & (p < 0.999)
    assert inside.sum() > 50
    assert np.allclose(ours["p_a"].to_numpy()[inside], p[inside], atol=1e-3)
    assert np.array_equal(ours["margin"].to_numpy() > 0, p > 0.5)


def test_glad_labels_are_crowd_kits() -> None:
    votes, pairs, _ = simulated(60, {"x": 0.6, "y": 0.7, "z": 0.9, "w": 0.85}, seed=3)
    theirs = crowdkit.GLAD(n_iter=20).fit_predict(as_pandas(votes))
    ours = fuse("glad", votes, pairs)
    assert ours["label"].to_list() == theirs.loc[ours["pair_id"].to_list()].to_list()


def test_stack_is_a_regularised_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    votes, pairs, truth = simulated(300, {"x": 0.6, "y": 0.7, "z": 0.9}, seed=4, humans=200)
    machine = votes.filter(pl.col("kind") != "human").with_columns((2 * (pl.col("label") == "a") - 1).alias("s"))
    wide = machine.pivot("voter", index="pair_id", values="s", aggregate_function="first")
    design = pairs.select("pair_id").join(wide, on="pair_id", maintain_order="left").drop("pair_id").to_numpy()
    labels = np.array([t == "a" for t in truth])
    model = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(design[:200], labels[:200])
    ours = fuse("stack", votes, pairs)
    assert np.allclose(ours["margin"].to_numpy(), model.decision_function(design), atol=1e-3)


def test_logistic_minimum_and_evidence() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, 2)), rng.random(40)
    mean, variance, weight = np.array([0.3, -0.2]), np.array([0.5, 2.0]), rng.random(40)

    def loss(w: Any) -> float:
        z = x @ w
        prior = 0.5 * (((w - mean) ** 2) / variance).sum()
        return float((weight * (np.logaddexp(0, z) - y * z)).sum() + prior)

    fit = fit_logistic(x, y, weight, mean, variance)
    assert np.allclose(approx_fprime(fit.weights, loss, 1e-7), 0.0, atol=1e-4)
    assert np.allclose(fit.weights, minimize(loss, mean, method="Nelder-Mead", options={"xatol": 1e-8}).x, atol=1e-3)
    # Laplace against the integral on a grid of the prior's own units.
    steps = np.linspace(-6, 6, 241)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    exact = np.log(np.sum([np.exp(-loss(mean + np.sqrt(variance) * v)) for v in grid]) * (steps[1] - steps[0]) ** 2)
    assert fit.evidence == pytest.approx(float(exact - np.log(2 * np.pi)), abs=0.05)


def test_temperature_and_ece_recover_a_known_distortion() -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(0, 2, 20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-z))).astype(float)
    ones = np.ones(len(z))
    assert fit_temperature(z, y, ones) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(3 * z, y, ones) == pytest.approx(3.0, abs=0.15)
    assert expected_calibration_error(1 / (1 + np.exp(-z)), y) < 0.015
    assert expected_calibration_error(1 / (1 + np.exp(-3 * z)), y) > 0.08
    assert expected_calibration_error(np.full(4, 0.9), np.array([1.0, 1, 0, 0])) == pytest.approx(0.4)

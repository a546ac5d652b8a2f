"""Krippendorff's alpha against its slow definition and against crowd-kit."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from transforms.stats.alpha import Metric, krippendorff_alpha, pairwise_agreement

answers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=0, max_size=40)


def definition(data: list[tuple[int, float]], metric: Metric) -> float:
    """Every ordered pair of answers, within items and over all: the book's formula, quadratic."""
    units: dict[int, list[float]] = {}
    for item, label in data:
        units.setdefault(item, []).append(label)
    units = {item: labels for item, labels in units.items() if len(labels) >= 2}
    pooled = [label for labels in units.values() for label in labels]

    def delta(x: float, y: float) -> float:
        return float(x != y) if metric == "nominal" else (x - y) ** 2

    if not pooled:
        return math.nan
    n = len(pooled)
    observed = sum(sum(delta(x, y) for x, y in itertools.permutations(u, 2)) / (len(u) - 1) for u in units.values()) / n
    expected = sum(delta(x, y) for x, y in itertools.permutations(pooled, 2)) / (n * (n - 1))
    return 1 - observed / expected if expected else math.nan


@pytest.mark.parametrize("metric", ["nominal", "interval"])
@given(data=answers)
def test_equals_the_definition(metric: Metric, data: list[tuple[int, float]]) -> None:
    items = pl.Series([f"item {i}" for i, _ in data], dtype=pl.String)
    labels = pl.Series([x for _, x in data], dtype=pl.Float64)
    found = krippendorff_alpha(items, labels, metric, replicates=0).alpha
    assert found == pytest.approx(definition(data, metric), abs=1e-9, nan_ok=True)


@given(data=answers, shift=st.integers(-1000, 1000), scale=st.integers(1, 50))
def test_names_and_units_do_not_count(data: list[tuple[int, float]], shift: int, scale: int) -> None:
    items, labels = pl.Series([i for i, _ in data], dtype=pl.Int64), pl.Series([x for _, x in data], dtype=pl.Int64)
    moved = labels * scale + shift
    for metric in ("nominal", "interval"):
        plain = krippendorff_alpha(items, labels, metric, replicates=0).alpha
        renamed = krippendorff_alpha(items * 7 + 5, moved, metric, replicates=0).alpha
        assert renamed == pytest.approx(plain, abs=1e-9, nan_ok=True)


def simulated(n_items: int, raters: int, accuracy: float, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(n_items), raters)
    truth = rng.integers(0, 3, n_items)
    label = np.where(rng.random(len(item)) < accuracy, truth[item], rng.integers(0, 3, len(item)))
    worker = np.tile(np.arange(raters), n_items)
    frame = pl.DataFrame({"task": item, "worker": worker, "label": np.array(["a", "b", "tie"])[label]})
    return frame.filter(pl.Series(rng.random(len(item)) < 0.8))


def test_equals_crowd_kit() -> None:
    metrics = pytest.importorskip("crowdkit.metrics.data", reason="the oracle crowd-kit is not installed")
    frame = simulated(500, 4, 0.7, seed=1)
    ours = krippendorff_alpha(frame["task"], frame["label"], replicates=0)
    assert ours.alpha == pytest.approx(metrics.alpha_krippendorff(frame.to_pandas()), abs=1e-9)


def test_the_bootstrap_interval_covers_the_alpha_of_the_population() -> None:
    people = simulated(200_000, 3, 0.7, seed=0)
    everybody = krippendorff_alpha(people["task"], people["label"], replicates=0).alpha
    covered = 0
    for seed in range(200):
        frame = simulated(150, 3, 0.7, seed=seed + 1)
        found = krippendorff_alpha(frame["task"], frame["label"], replicates=300, seed=seed)
        covered += found.low <= everybody <= found.high
        assert found.low < found.alpha < found.high
    assert covered / 200 == pytest.approx(0.95, abs=0.04)


def test_known_extremes() -> None:
    items = pl.Series([1, 1, 2, 2])
    assert krippendorff_alpha(items, pl.Series(["a", "a", "b", "b"])).alpha == 1
    assert krippendorff_alpha(items, pl.Series(["a", "b", "a", "b"])).alpha == pytest.approx(-0.5)
    lonely = krippendorff_alpha(pl.Series([1, 2]), pl.Series(["a", "b"]))
    assert math.isnan(lonely.alpha)
    assert lonely.items == 0
    assert math.isnan(krippendorff_alpha(items, pl.Series(["a"] * 4)).alpha)


def test_missing_answers_are_left_out_and_bad_input_is_refused() -> None:
    items, labels = pl.Series([1, 1, 1, 2, 2, 3]), pl.Series(["a", None, "b", "a", "a", None])
    given_ = labels.is_not_null()
    assert krippendorff_alpha(items, labels) == krippendorff_alpha(items.filter(given_), labels.filter(given_))
    with pytest.raises(DataError, match="2 items for 1"):
        krippendorff_alpha(pl.Series([1, 2]), pl.Series(["a"]))
    with pytest.raises(DataError, match="finite"):
        krippendorff_alpha(pl.Series([1, 1]), pl.Series([math.inf, 1.0]), "interval")


@given(data=answers)
def test_pairwise_agreement_counts_equal_pairs(data: list[tuple[int, float]]) -> None:
    pairs = [x == y for (i, x), (j, y) in itertools.combinations(data, 2) if i == j]
    expected = sum(pairs) / len(pairs) if pairs else math.nan
    items, labels = pl.Series([i for i, _ in data], dtype=pl.Int64), pl.Series([x for _, x in data], dtype=pl.Int64)
    assert pairwise_agreement(items, labels) == pytest.approx(expected, nan_ok=True)


def test_time_is_linear() -> None:
    def seconds(n: int) -> float:
        frame = simulated(n, 4, 0.7, seed=3)
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            krippendorff_alpha(frame["task"], frame["label"], replicates=0)
            best = min(best, time.process_time() - start)
        return best

    seconds(1000)
    assert seconds(160_000) < 16 * 4 * max(seconds(10_000), 1e-3)

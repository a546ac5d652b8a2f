"""The certificate covers the truth as often as it says, alone and with annotators who err."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, hypergeom

from schemas.errors import DataError
from transforms.stats import certificate
from transforms.stats.certificate import Certificate, certify, certify_slices, jeffreys_bounds, jeffreys_interval


def audit_of(right: np.ndarray, overlap: int | tuple[int, ...], error: float, rng: np.random.Generator) -> pl.DataFrame:
    """Held-out answers to audited pairs whose labels are right or wrong, by annotators wrong with P(error).

    Args:
        overlap: answers per pair, or what a pair's number of answers is drawn from.
    """
    n = len(right)
    answers = rng.choice(overlap, n) if isinstance(overlap, tuple) else np.full(n, overlap)
    published = np.repeat(np.where(rng.random(n) < 0.5, "a", "b"), answers)
    agrees = (rng.random(len(published)) < error) ^ np.repeat(right, answers)
    other = np.where(published == "a", "b", "a")
    return pl.DataFrame(
        {
            "pair_id": np.repeat([f"{i:032x}" for i in range(n)], answers),
            "published": published,
            "answer": np.where(agrees, published, other),
        }
    )


def coverage(audits: int, overlap: int | tuple[int, ...], error: float, seed: int) -> float:
    """Share of simulated audits whose interval holds the true share of right labels."""
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(audits):
        population, n = int(rng.integers(800, 100_000)), int(rng.integers(50, 600))
        right = int(rng.binomial(population, rng.uniform(0.55, 0.98)))
        drawn = int(rng.hypergeometric(right, population - right, n))
        found = certify(audit_of(np.arange(n) < drawn, overlap, error, rng), population)
        covered += found.low <= right / population <= found.high
    return covered / audits


def exact_coverage(settings: int, seed: int) -> list[float]:
    """Of drawn populations, how often an audit's interval holds the truth: summed over what it can find, exactly."""
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(settings):
        population, n = int(rng.integers(800, 100_000)), int(rng.integers(50, 600))
        right = int(rng.binomial(population, rng.uniform(0.55, 0.98)))
        found = hypergeom(population, right, n)
        counts = np.arange(int(found.ppf(1e-6)), int(found.isf(1e-6)) + 1)
        low, high = jeffreys_bounds(counts, n, population)
        covered.append(float(found.pmf(counts)[(low <= right / population) & (right / population <= high)].sum()))
    return covered


def test_audits_are_covered_as_promised() -> None:
    covered = exact_coverage(60, seed=11)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.85  # the binomial is discrete: one setting is off by more than all of them


@pytest.mark.slow
def test_a_thousand_audits_are_covered_as_promised() -> None:
    assert np.mean(exact_coverage(1000, seed=13)) == pytest.approx(0.95, abs=0.003)


@pytest.mark.slow
def test_a_thousand_audits_by_annotators_who_err_are_covered_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """All settings together within one point, each within that and three standard errors of a thousand audits."""
    # Half of the time would go to the anytime-valid interval, which has tests of its own.
    monkeypatch.setattr(certificate, "_anytime", lambda *_: (math.nan, math.nan))
    settings: list[tuple[int | tuple[int, ...], float]] = [(2, 0.05), (2, 0.1), (2, 0.2), (3, 0.1), ((1, 2, 3), 0.1)]
    found = [coverage(1000, overlap, error, seed=21 + i) for i, (overlap, error) in enumerate(settings)]
    assert np.mean(found) == pytest.approx(0.95, abs=0.01)
    assert found == pytest.approx([0.95] * len(settings), abs=0.01 + 3 * math.sqrt(0.95 * 0.05 / 1000))


def test_annotator_error_is_corrected_where_answers_overlap() -> None:
    audits = 60
    misses = round(audits * (1 - coverage(audits, overlap=2, error=0.15, seed=12)))
    assert misses <= binom.isf(1e-4, audits, 0.05)
    assert coverage(audits, overlap=1, error=0.15, seed=12) < 0.5  # what the correction is for


def test_error_and_accuracy_are_recovered_from_a_large_audit() -> None:
    rng = np.random.default_rng(5)
    right = rng.random(20_000) < 0.8
    found = certify(audit_of(right, 2, 0.12, rng), 1_000_000)
    assert found.annotator_error == pytest.approx(0.12, abs=0.01)
    assert found.accuracy == pytest.approx(right.mean(), abs=0.015)
    assert found.agreement == pytest.approx(0.8 * 0.88 + 0.2 * 0.12, abs=0.01)
    assert found.low < right.mean() < found.high


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5000))
def test_bounds_stay_within_what_is_still_possible(right: int, wrong: int, unseen: int) -> None:
    assume(right + wrong > 0)
    population = right + wrong + unseen
    low, high = jeffreys_interval(right, right + wrong, population)
    assert right / population - 1e-12 <= low <= high <= 1 - wrong / population + 1e-12
    if unseen == 0:
        assert low == high == right / population
    mirrored = jeffreys_interval(wrong, right + wrong, population)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1.01 / population)


def test_the_approximation_for_large_populations_joins_the_exact_sum() -> None:
    for right, n in ((40, 50), (480, 500), (3, 80)):
        unseen = 3000
        exact = (right + betabinom.ppf([0.025, 0.975], unseen, right + 0.5, n - right + 0.5)) / (n + unseen)
        assert jeffreys_interval(right, n, n + unseen) == pytest.approx(tuple(exact), abs=1e-3)


def test_a_census_with_perfect_annotators_leaves_no_doubt() -> None:
    rng = np.random.default_rng(1)
    found = certify(audit_of(np.arange(300) < 270, 1, 0.0, rng), 300)
    assert (found.accuracy, found.low, found.high) == (0.9, 0.9, 0.9)
    assert found.annotator_error is None


def test_ties_are_undecided_and_nothing_audited_says_nothing() -> None:
    rows = pl.DataFrame(
        {
            "pair_id": ["1", "2", "3", "3", "4"],
            "published": ["a", "b", "a", "a", "b"],
            "answer": ["a", "both_bad", "tie", "b", "tie"],
        }
    )
    found = certify(rows, 100)
    assert (found.audited, found.undecided, found.answers, found.agreement) == (2, 2, 2, 0.5)
    empty = certify(rows.clear(), 100)
    assert math.isnan(empty.accuracy)
    assert empty.as_dict()["accuracy"] is None


def test_slices_use_their_own_labels_and_share_the_annotators() -> None:
    rng = np.random.default_rng(2)
    good, poor = rng.random(1500) < 0.95, rng.random(1500) < 0.6
    rows = audit_of(np.concatenate([good, poor]), 2, 0.1, rng)
    rows = rows.with_columns(kind=pl.Series(np.repeat(["good", "poor"], 3000)))
    found = certify_slices(rows, {"kind": {"good": 50_000, "poor": 50_000, "absent": 10}})["kind"]
    assert found["good"].low <= good.mean() <= found["good"].high
    assert found["poor"].low <= poor.mean() <= found["poor"].high
    assert found["absent"].audited == 0
    few = pl.concat([rows.filter(kind="good"), rows.filter(kind="poor").head(80)])
    shared = certify_slices(few, {"kind": {"poor": 50_000}})["kind"]["poor"]
    assert _width(shared) < _width(certify(few.filter(kind="poor"), 50_000))


def _width(certificate: Certificate) -> float:
    return certificate.high - certificate.low


def test_impossible_audits_are_refused() -> None:
    rows = audit_of(np.ones(10, dtype=bool), 1, 0.0, np.random.default_rng(0))
    with pytest.raises(DataError, match="10 pairs audited of 5"):
        certify(rows, 5)
    with pytest.raises(DataError, match="not a preference"):
        certify(rows.with_columns(published=pl.lit("tie")), 50)

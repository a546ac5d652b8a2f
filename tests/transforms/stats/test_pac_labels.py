"""PAC labels: the tolerated share of wrong labels is kept, whatever certainties and annotators are worth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from transforms.stats.pac_labels import (
    ASK_ALL,
    ASK_NONE,
    Threshold,
    audited_labels,
    choose_threshold,
    count_labels,
    largest_error,
    upper_bound,
)

N, AUDITED, RUNS = 2_000, 200, 200


Floats = NDArray[np.float64]


def population(certainty: Floats, published_from: float = 0.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "pair_id": [f"{i:06}" for i in range(len(certainty))],
            "label": ["a"] * len(certainty),
            "certainty": certainty,
            "stays": certainty >= published_from,
            "always": [False] * len(certainty),
        }
    )


def answers_of(
    right: np.ndarray, seen: np.ndarray, people: int, error: float, rng: np.random.Generator
) -> pl.DataFrame:
    """`people` answers to each pair seen; each person is wrong with probability `error`."""
    rows = np.repeat(seen, people)
    agrees = right[rows] ^ (rng.random(len(rows)) < error)
    return pl.DataFrame(
        {
            "pair_id": [f"{i:06}" for i in rows],
            "answer": np.where(agrees, "a", "b"),
            "at": [f"{i:06}" for i in range(len(rows))],
        }
    )


def chosen(labels: pl.DataFrame, answers: pl.DataFrame, max_error: float) -> Threshold:
    audit = audited_labels(labels.filter("stays"), answers)
    return choose_threshold(audit, count_labels(labels, audit), max_error)


@pytest.mark.parametrize(("people", "error"), [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.25)])
@pytest.mark.parametrize("useful", [True, False])
def test_no_more_labels_are_wrong_than_tolerated(people: int, error: float, useful: bool) -> None:
    rng, max_error, broken, spared = np.random.default_rng(people), 0.08, 0, 0.0
    for _ in range(RUNS):
        certainty = rng.beta(3, 1, N)
        p = 1 - 0.6 * (1 - certainty) if useful else rng.permutation(1 - 0.6 * (1 - certainty))
        right = rng.random(N) < p
        labels = population(certainty, published_from=0.3)
        found = chosen(labels, answers_of(right, rng.permutation(N)[:AUDITED], people, error, rng), max_error)
        stays = (certainty >= max(found.certainty, 0.3)) & (found.certainty < ASK_ALL)
        assert (int(stays.sum()), int((certainty < found.certainty).sum())) == (found.kept, found.asked)
        broken += (stays & ~right).sum() > max_error * (found.kept + found.asked)
        spared += found.kept / N / RUNS
    assert broken <= binom.ppf(0.999, RUNS, 0.05)
    if useful and error < 0.2:
        assert spared > 0.3


@given(st.floats(0, 0.45), st.floats(0, 0.45), st.floats(0, 0.04))
def test_the_error_bound_holds_for_every_annotator_who_is_wrong_no_more_often(
    error: float, mu: float, more: float
) -> None:
    contradicted = error * (1 - mu) ** 2 + (1 - error) * mu**2
    assert largest_error(np.array([contradicted]), mu + more)[0] >= error - 1e-9


@given(st.floats(0.0, 0.6), st.floats(0.0, 0.49))
def test_the_error_bound_is_the_largest_over_annotators(c: float, most: float) -> None:
    mu = np.linspace(0, most, 20_001)
    largest = ((c - mu**2) / (1 - 2 * mu)).max()
    assert largest_error(np.array([c]), most)[0] == pytest.approx(min(max(largest, 0.0), 1.0), abs=1e-3)


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_upper_bound_is_that_of_clopper_and_pearson(found: int, more: int) -> None:
    n = found + more
    bound = upper_bound(np.array([found]), np.array([n]), 0.05)[0]
    assert binom.cdf(found, n, bound) == pytest.approx(0.05, abs=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.3), st.integers(1, 5))
def test_parts_of_the_population_add_up_and_their_order_does_not_matter(
    seed: int, max_error: float, parts: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = population(np.round(rng.beta(3, 1, 500), 2))
    right = rng.random(500) < labels["certainty"].to_numpy()
    answers = answers_of(right, rng.permutation(500)[:100], 2, 0.1, rng)
    audit = audited_labels(labels, answers)
    whole = choose_threshold(audit, count_labels(labels, audit), max_error)
    shuffled = labels.sample(fraction=1, shuffle=True, seed=1)
    counts = count_labels(shuffled[::parts], audit)
    for i in range(1, parts):
        counts = counts.with_more(count_labels(shuffled[i::parts], audit))
    again = audited_labels(shuffled, answers.sample(fraction=1, shuffle=True, seed=2))
    assert choose_threshold(again, counts, max_error) == whole
    assert whole.error <= max_error


def test_without_contradictions_nobody_is_asked_and_with_nothing_but_them_everybody() -> None:
    rng = np.random.default_rng(0)
    labels = population(rng.random(N))
    seen = rng.permutation(N)[:AUDITED]
    none = chosen(labels, answers_of(np.ones(N, bool), seen, 2, 0.0, rng), 0.05)
    assert (none.certainty, none.asked, none.kept) == (ASK_NONE, 0, N)
    assert none.error == pytest.approx(1 - 0.025 ** (1 / AUDITED), rel=0.05)
    assert chosen(labels, answers_of(np.zeros(N, bool), seen, 2, 0.0, rng), 0.05) == (ASK_ALL, 0.0, N, 0)
    assert chosen(labels, answers_of(np.ones(N, bool), seen[:10], 2, 0.0, rng), 0.05).certainty == ASK_ALL


def test_pairs_without_a_preference_are_left_out_and_half_answered_ones_count_once() -> None:
    labels = population(np.array([0.9, 0.8, 0.7]))
    answers = pl.DataFrame(
        {
            "pair_id": ["000000", "000000", "000001", "000001", "000002", "000002"],
            "answer": ["tie", "both_bad", "b", "tie", "b", "a"],
            "at": ["1", "2", "1", "2", "1", "2"],
        }
    )
    audit = audited_labels(labels, answers)
    assert audit.certainty.tolist() == [0.8, 0.7]
    assert audit.contradicted.tolist() == [True, False]
    assert (audit.twice, audit.split) == (1, 1)

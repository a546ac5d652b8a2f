"""The benchmark of keep, flip, drop and soften treats labels as the policy would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.quality.noise_treatment import TREATMENTS, by_policy, lessons, table, treated
from tests.test_decisions import decided

LABELS = st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.99)), min_size=1, max_size=20)


@given(LABELS)
def test_only_suspects_are_treated(rows: list[tuple[bool, float]]) -> None:
    labels, right = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    suspect = right < 0.5
    for treatment in TREATMENTS:
        y, weight = treated(labels, right, suspect, treatment)
        assert (y[~suspect] == labels[~suspect]).all()
        assert (weight[~suspect] == 1).all()
        if treatment == "drop":
            assert (weight[suspect] == 0).all()
        else:
            assert (y[suspect] == 1 - labels[suspect]).all()
            assert weight[suspect] == pytest.approx(1 - 2 * right[suspect] if treatment == "soften" else 1)


@given(LABELS)
def test_softening_above_one_half_keeps_the_side(rows: list[tuple[bool, float]]) -> None:
    labels, right = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    y, weight = treated(labels, right, right < 2 / 3, "soften")
    assert (y == np.where(right < 0.5, 1 - labels, labels)).all()
    assert ((weight == 1) | (right < 2 / 3)).all()


@given(LABELS)
def test_the_policy_of_the_benchmark_is_the_products(rows: list[tuple[bool, float]]) -> None:
    right = np.array([p for _, p in rows])
    y, weight = by_policy(np.ones(len(rows)), right)  # the source says a in every pair
    actions = decided([(float(p), float(1 - p), 0.0) for p in right])["action"].to_list()
    treated_as = ["drop" if not w else "keep" if label else "flip" for label, w in zip(y, weight, strict=True)]
    assert treated_as == actions


def test_where_nothing_is_suspect_nothing_is_trained_again() -> None:
    assert list(lessons(np.ones(3), np.full(3, 0.9))) == []
    run = {"keep": 0.6, "fuser: share below 2/3": 0.2, "fuser: right below 2/3": 0.5, "fuser: policy": 0.61}
    run |= {f"fuser: {treatment} below 2/3": 0.62 for treatment in TREATMENTS}
    run |= {f"fuser: share below {bound}": 0.0 for bound in ("1/2", "1/3")}
    assert list(table([run, run], "fuser")) == [
        "| fuser | 2/3 | 20% | 50% | +0.020 ±0.000 | +0.020 ±0.000 | +0.020 ±0.000 | +0.010 ±0.000 |"
    ]

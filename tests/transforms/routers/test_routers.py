"""What each router's values mean, against brute force and known limits."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import hash_fields
from schemas.tables import CONTRIBUTION_FIELDS, Verdicts, polars_schema
from transforms.plugins.registry import find, names
from transforms.stats.value_of_answers import (
    gain_of_answers,
    human_agreement,
    loss,
    outcomes,
    reliability_of,
    without_humans,
)

CONTRIBUTIONS = polars_schema(Verdicts)["contributions"]
beliefs = st.lists(st.floats(0.001, 1), min_size=3, max_size=3).map(lambda w: np.array([w]) / sum(w))


def frame(p_a: list[float], p_tie: list[float], **columns: list[object]) -> pl.DataFrame:
    n = len(p_a)
    base = {
        "pair_id": [hash_fields(str(i)) for i in range(n)],
        "p_a": p_a,
        "p_tie": p_tie,
        "kind": ["x"] * n,
        "prior": [0.0] * n,
        "contributions": [[]] * n,
    }
    return pl.DataFrame({**base, **columns}, schema_overrides={"contributions": CONTRIBUTIONS})


@given(beliefs, st.floats(1 / 3, 1), st.sampled_from(["zero_one", "brier", "log"]))
def test_gain_equals_the_definition_summed_over_all_worlds(p: np.ndarray, r: float, kind: str) -> None:
    expected = float(loss(p, kind)[0])
    for answer in range(3):
        joint = [p[0, truth] * (r if truth == answer else (1 - r) / 2) for truth in range(3)]
        if sum(joint) > 0:
            expected -= sum(joint) * float(loss(np.array([joint]) / sum(joint), kind)[0])
    assert gain_of_answers(p, r, kind)[0] == pytest.approx(max(expected, 0), abs=1e-9)


@given(beliefs, st.sampled_from(["zero_one", "brier", "log"]))
def test_a_perfect_annotator_buys_the_whole_loss_and_a_guessing_one_nothing(p: np.ndarray, kind: str) -> None:
    assert gain_of_answers(p, 1.0, kind)[0] == pytest.approx(float(loss(p, kind)[0]), abs=1e-9)
    assert gain_of_answers(p, 1 / 3, kind)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["all", "random", "uncertainty", "value"])
def test_every_router_gives_one_finite_value_per_candidate(name: str) -> None:
    assert name in names("routers")
    rng = np.random.default_rng(0)
    rows = frame(list(rng.random(50)), list(rng.random(50)))
    router = find("routers", name)
    values = router(name, router.Config(), 1).values({}, rows)
    assert len(values) == 50
    assert values.is_finite().all()
    assert values.equals(router(name, router.Config(), 1).values({}, rows))
    assert np.allclose(outcomes(rows).sum(axis=1), 1)


def test_value_and_uncertainty_rank_a_coin_flip_above_a_certainty() -> None:
    rows = frame([0.5, 0.99, 0.7], [0.0, 0.0, 0.0])
    for name in ("uncertainty", "value"):
        router = find("routers", name)
        assert router(name, router.Config(), 1).values({}, rows).arg_sort(descending=True).to_list() == [0, 2, 1]


def test_value_asks_less_where_people_disagree() -> None:
    def answers(label_pairs: list[tuple[str, str]], kind: str) -> pl.DataFrame:
        given_ = [
            [{"voter": f"human:{i}", "n_votes": 1, "label": label, "log_odds": 0.0} for i, label in enumerate(pair)]
            for pair in label_pairs
        ]
        n = len(label_pairs)
        return frame([0.5] * n, [0.0] * n, kind=[kind] * n, contributions=given_)

    clear = answers([("a", "a"), ("b", "b")] * 100, "clear")
    murky = answers([("a", "b"), ("a", "a"), ("tie", "b")] * 70, "murky")
    router_class = find("routers", "value")
    router = router_class("value", router_class.Config(), 1)
    model = router.fit(pl.concat([clear, murky]))
    assert model["reliability"]["clear"] > 0.9 > model["reliability"]["murky"]
    values = router.values(model, pl.concat([clear.head(1), murky.head(1)]))
    assert values[0] > values[1]


def test_reliability_inverts_agreement() -> None:
    for r in np.linspace(1 / 3, 1, 20):
        agreement = sum(
            (r if x == 0 else (1 - r) / 2) * (r if y == 0 else (1 - r) / 2)
            for x, y in itertools.product(range(3), repeat=2)
            if x == y
        )
        assert reliability_of(agreement) == pytest.approx(r, abs=1e-7)
    assert reliability_of(0.1) == pytest.approx(1 / 3)


def test_human_contributions_are_taken_off_and_flips_seen() -> None:
    assert set(CONTRIBUTION_FIELDS) == {"voter", "n_votes", "label", "log_odds"}

    def contribution(voter: str, label: str, log_odds: float) -> dict[str, object]:
        return {"voter": voter, "n_votes": 1, "label": label, "log_odds": log_odds}

    rows = frame(
        [0.5] * 3,
        [0.0] * 3,
        contributions=[
            [contribution("judge", "a", 1.0), contribution("human:x", "b", -3.0), contribution("human:y", "b", -1.0)],
            [contribution("judge", "a", 1.0), contribution("human:x", "a", 3.0)],
            [],
        ],
    )
    machine = without_humans(rows)
    assert machine["margin_machine"].to_list() == [1.0, 1.0, 0.0]
    assert machine["flipped"].to_list() == [True, False, False]
    agreement = human_agreement(rows)
    assert agreement.row(0, named=True) == {"kind": "x", "compared": 1.0, "agreeing": 1.0}


def test_an_answer_is_worth_what_it_moves() -> None:
    """Told how far an answer moves the log-odds, `value` finds what an annotator of just that weight would bring."""
    router = find("routers", "value")
    plugin = router("value", router.Config(ahead=1), 0)
    steps = [0.0, 0.2, 1.0, 3.0]
    rows = frame([0.55] * 4, [0.0] * 4, step=steps)
    values = plugin.values({}, rows).to_list()
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values)
    assert len(set(values)) == 4
    for value, step in zip(values, steps, strict=True):
        # With no ties an answer names the better side exp(step) times as often as each other one: Bayes by hand.
        p, other = 0.55, 1 / (2 + np.exp(step))
        right = 1 - 2 * other
        after = max(p * right, (1 - p) * other) + max(p * other, (1 - p) * right) + other * max(p, 1 - p)
        assert value == pytest.approx(max(after - max(p, 1 - p), 0), abs=1e-5)


def test_value_looks_as_far_ahead_as_answers_pay() -> None:
    """The value is the best mean gain: one answer of small weight turns nothing, three together do."""
    router = find("routers", "value")
    p_a = list(np.linspace(0.05, 0.95, 19))
    rows = frame(p_a, [0.0] * 19, step=[0.5] * 19)
    near, far = (router("value", router.Config(ahead=n), 0).values({}, rows).to_numpy() for n in (1, 3))
    odds = np.exp(0.5)
    mean = [gain_of_answers(outcomes(rows), odds / (2 + odds), "zero_one", m) / m for m in (1, 2, 3)]
    assert far == pytest.approx(np.max(mean, axis=0), abs=1e-6)
    assert (far >= near - 1e-12).all()
    at = p_a.index(min(p_a, key=lambda p: abs(p - 0.7)))
    assert near[at] < 1e-6 < far[at]

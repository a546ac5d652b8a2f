"""Annotators in figures: simulated people of known habits are described as what they are."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from schemas.tables import Verdicts, polars_schema
from transforms.stats.reliability import annotators, drift, judge_agreement, pair_agreement, suspicions

N = 400


def world() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Answers, verdicts, known answers and lengths: two good annotators, one who always takes the first, one lazy."""
    rng = np.random.default_rng(0)
    ids = [f"{i:032x}" for i in range(N)]
    truth = np.where(rng.random(N) < 0.5, "a", "b")
    shown = np.where(rng.random(N) < 0.5, "ab", "ba")
    other = np.where(truth == "a", "b", "a")
    habits = {
        "good": np.where(rng.random(N) < 0.9, truth, other),
        "fine": np.where(rng.random(N) < 0.85, truth, other),
        "first": np.where(shown == "ab", "a", "b"),
        "lazy": np.where(rng.random(N) < 0.5, "a", "b"),
    }
    frames = [
        pl.DataFrame(
            {
                "pair_id": ids,
                "annotator": [who] * N,
                "label": labels,
                "cancelled": [False] * N,
                "seconds": np.full(N, 2.0 if who == "lazy" else 40.0),
                "updated_at": [f"2026-01-01T{i // 60:02d}:{i % 60:02d}:00Z" for i in range(N)],
                "shown": shown,
            }
        )
        for who, labels in habits.items()
    ]
    answers = pl.concat(frames)
    skips = answers.head(3).with_columns(cancelled=pl.lit(True), label=pl.lit(None), annotator=pl.lit("fine"))
    contributions = [
        [
            {
                "voter": f"human:{who}",
                "n_votes": 1,
                "label": label,
                "log_odds": math.log(9) * (1 if label == "a" else -1),
            }
            for who, label in (("good", str(habits["good"][i])), ("fine", str(habits["fine"][i])))
        ]
        for i in range(N)
    ]
    verdicts = pl.DataFrame(
        {"pair_id": ids, "prior": [0.0] * N, "contributions": contributions},
        schema_overrides={"contributions": polars_schema(Verdicts)["contributions"]},
    )
    known = pl.DataFrame({"pair_id": ids[:60], "known_label": truth[:60]})
    lengths = pl.DataFrame({"pair_id": ids, "n_chars": [1000] * N})
    return pl.concat([answers, skips]), verdicts, known, lengths


def test_annotators_are_described_as_they_are() -> None:
    answers, verdicts, known, _ = world()
    found = {row["annotator"]: row for row in annotators(answers, verdicts, known).iter_rows(named=True)}
    assert found["fine"]["skips"] == 3
    assert {row["answers"] for row in found.values()} == {N}
    assert found["good"]["controls"] == 60
    assert found["good"]["controls_right"] > 45 > found["lazy"]["controls_right"]
    assert found["first"]["bias_first"] == 0.5
    assert abs(found["good"]["bias_first"]) < 0.1
    assert found["good"]["reliability"] > 0.65
    assert found["lazy"]["reliability"] == pytest.approx(0.5, abs=0.06)


def test_reliability_does_not_count_ones_own_opinion() -> None:
    answers, verdicts, known, _ = world()
    alone = verdicts.with_columns(
        contributions=pl.col("contributions").list.filter(pl.element().struct.field("voter") == "human:good")
    )
    found = annotators(answers.filter(annotator="good"), alone, known)
    assert found["reliability"].item() == pytest.approx(0.5)


def test_only_the_careless_are_suspected_and_with_their_evidence() -> None:
    answers, _, known, lengths = world()
    found = suspicions(answers, known, lengths)
    kinds = {(r["annotator"], r["kind"]) for r in found.iter_rows(named=True)}
    assert {who for who, _ in kinds} == {"first", "lazy"}
    assert {("first", "one_side"), ("lazy", "too_fast"), ("lazy", "controls"), ("lazy", "chance_agreement")} <= kinds
    assert (found["p_value"] < 0.01).all()
    assert found.filter(annotator="first", kind="one_side")["evidence"].item() == (
        f"chose the response shown first in {N} of {N} preferences"
    )


def test_drift_shows_who_gets_tired() -> None:
    answers, verdicts, _, _ = world()
    late = (pl.col("updated_at") >= "2026-01-01T03:20") & (pl.col("annotator") == "fine") & ~pl.col("cancelled")
    flipped = pl.col("label").replace({"a": "b", "b": "a"})
    tired = answers.with_columns(
        label=pl.when(late).then(flipped).otherwise("label"), seconds=pl.when(late).then(5.0).otherwise("seconds")
    )
    found = {row["annotator"]: row for row in drift(tired, verdicts).iter_rows(named=True)}
    assert found["fine"]["reliability_late"] < 0.5 < found["fine"]["reliability_early"]
    assert (found["fine"]["seconds_early"], found["fine"]["seconds_late"]) == (40.0, 5.0)
    assert abs(found["good"]["reliability_late"] - found["good"]["reliability_early"]) < 0.1


def test_agreement_of_two_is_counted_by_hand() -> None:
    rows = pl.DataFrame(
        {
            "pair_id": ["1", "1", "2", "2", "2", "3"],
            "annotator": ["x", "y", "x", "y", "z", "x"],
            "label": ["a", "a", "a", "b", "b", "a"],
            "cancelled": [False] * 6,
        }
    )
    found = {
        (r["first"], r["second"]): (r["shared"], r["agreeing"]) for r in pair_agreement(rows).iter_rows(named=True)
    }
    assert found == {("x", "y"): (2, 1), ("x", "z"): (1, 0), ("y", "z"): (1, 1)}


def test_judges_are_measured_against_the_humans_majority_per_slice() -> None:
    votes = pl.DataFrame(
        [
            ("1", "h1", "human", "a"), ("1", "h2", "human", "a"), ("1", "h3", "human", "b"), ("1", "j", "judge", "a"),
            ("2", "h1", "human", "b"), ("2", "j", "judge", "a"), ("3", "h1", "human", "tie"), ("3", "j", "judge", "a"),
            ("4", "h1", "human", "b"), ("4", "j", "judge", "invalid"),
        ],
        schema=["pair_id", "voter", "kind", "label"],
        orient="row",
    )  # fmt: skip
    slices = pl.DataFrame({"pair_id": ["1", "2", "3", "4"], "kind": ["chat", "sum", "sum", "sum"]})
    assert judge_agreement(votes, slices, "kind").rows() == [("j", "chat", 1, 1.0), ("j", "sum", 1, 0.0)]

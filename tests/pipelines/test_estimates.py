"""Estimates of the whole data set: people's labels against predictions that have not seen them, and what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit

from pipelines.inspect.estimates import estimate_notes, outcome_note, with_people
from transforms.stats.label_noise import worse_chosen
from transforms.stats.prediction_powered import Predictions, ppi_rate
from transforms.stats.verdict_rows import CONTRIBUTIONS

OLD = {
    "noise": {"rate": 0.2, "low": 0.1, "high": 0.3, "level": 0.95, "n": 40},
    "predicted": {"keep": 1.0},
    "actual": {"keep": 1.0},
    "calibration": None,
}
NEW = OLD | {
    "calibrated_by": "agreement",
    "uncalibrated": None,
    "noise": OLD["noise"] | {"how": "agreement of four"},  # type: ignore[operator]
    "unknown": None,
    "accuracy": {"before": 0.8, "after": 0.95},
    "expected": {"turned": 0.75, "left_out": 0.125},
    "warnings": ["x, y err together"],
}


def world(rng: np.random.Generator, n: int, people_on: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Verdicts, people's votes, contributions: a source wrong in 20%, a machine right in 80%, people always right."""
    truth = rng.choice([-1.0, 1.0], n)
    source = np.where(rng.random(n) < 0.2, -truth, truth)
    machine = np.where(rng.random(n) < 0.8, truth, -truth) * logit(0.8) + source * logit(0.8)
    spoke = np.arange(n) < people_on
    own = np.where(spoke, 3.0 * truth, 0.0)
    ids = [f"{i:032x}" for i in range(n)]
    verdicts = pl.DataFrame(
        {
            "pair_id": ids,
            "prompt_id": ids,
            "source_label": np.where(source > 0, "a", "b"),
            "margin": machine + own,
            "p_a": expit(machine + own),
        }
    ).with_columns(worse=worse_chosen())
    people = pl.DataFrame(
        {"pair_id": ids, "kind": "human", "voter": "src/h1", "label": np.where(truth > 0, "a", "b")}
    ).filter(pl.Series(spoke))
    cast = [
        [{"voter": name, "n_votes": 1, "label": "a", "log_odds": z} for name, z in (("src/h1", o), ("judge", m)) if z]
        for o, m in zip(own, machine, strict=True)
    ]
    return (
        verdicts,
        people,
        pl.DataFrame({"pair_id": ids, "contributions": cast}, schema_overrides={"contributions": CONTRIBUTIONS}),
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_people_correct_predictions_that_have_not_seen_them(share: float) -> None:
    rng, n, covered = np.random.default_rng(3), 600, 0
    for _ in range(40):
        verdicts, people, contributions = world(rng, n, round(share * n))
        found = with_people(verdicts, people, contributions)
        labelled = found.filter(pl.col("people").is_not_null())
        wrong = (labelled["people"] != labelled["source_label"]).to_numpy().astype(np.float64)
        rate = ppi_rate(Predictions.of(found["unseen"].to_numpy()), labelled["unseen"].to_numpy(), wrong)
        assert rate is not None
        covered += rate.low <= 0.2 <= rate.high
        without = found["pair_id"].is_in(people["pair_id"].implode())
        assert np.allclose(found.filter(~without)["unseen"], found.filter(~without)["worse"])
    assert covered >= 34


def test_answers_to_what_we_asked_are_no_sample_of_the_others() -> None:
    verdicts, people, contributions = world(np.random.default_rng(1), 50, 50)
    asked = people.with_columns(voter=pl.lit("human:ann"))
    renamed = contributions.explode("contributions").unnest("contributions")
    renamed = renamed.with_columns(pl.col("voter").replace("src/h1", "human:ann"))
    packed = renamed.group_by("pair_id").agg(contributions=pl.struct("voter", "n_votes", "label", "log_odds"))
    found = with_people(verdicts, asked, packed)
    assert found["people"].null_count() == 50
    assert not np.allclose(found["unseen"], found["worse"])  # though their own votes are taken out


def said(values: dict[str, Any]) -> str:
    return " | ".join(estimate_notes(values))


def test_what_is_known_says_how_and_what_is_not_says_why() -> None:
    assert "known by agreement of four; of about 8 the decisions turn 6 and leave out 1" in said(NEW)
    assert "warning: x, y err together" in said(NEW)
    assert "uncalibrated" not in said(NEW)
    unknown = NEW | {"calibrated_by": None, "uncalibrated": "too few", "noise": None, "unknown": "too few"}
    assert "is not known: too few | probabilities are uncalibrated |" in said(unknown)
    without_source = unknown | {"unknown": None}
    assert "not known" not in said(without_source)
    assert "uncalibrated: too few" in said(without_source)


def test_estimates_of_an_earlier_version_are_shown_as_they_are() -> None:
    assert "wrong source labels: 20.0% (95% interval 10.0% to 30.0%) |" in said(OLD)
    assert "uncalibrated" not in said(OLD)
    assert outcome_note(40, 30, OLD, None) == "in 40 pairs, out 30 rows"
    assert estimate_notes(None) == []


def test_the_last_sentence_says_how_right_labels_are_and_how_that_is_known() -> None:
    assert outcome_note(40, 30, NEW, None).endswith("accuracy 80.0% -> 95.0%, known by agreement of four")
    audit = {"accuracy": 0.9, "audited": 25}
    audited = NEW | {"audited_noise": {"rate": 0.3}}
    assert outcome_note(40, 30, audited, audit).endswith("accuracy 70.0% -> 90.0%, known by an audit of 25 pairs")
    assert outcome_note(40, 30, audited, audit | {"audited": 3}).endswith("known by agreement of four")
    nothing = NEW | {"calibrated_by": None, "uncalibrated": "too few", "noise": None, "accuracy": None}
    assert outcome_note(40, 30, nothing, None).endswith("accuracy not known: too few")

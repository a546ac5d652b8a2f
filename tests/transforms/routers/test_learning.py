"""Routers that learn from people: simulated people, whose habits must be found."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from schemas.ids import hash_fields
from schemas.tables import Verdicts, polars_schema
from transforms.plugins.registry import find
from transforms.stats.value_of_answers import without_humans


def asked(n: int, seed: int, answered: bool) -> pl.DataFrame:
    """Pairs of two kinds; people turn over 60% of uncertain `hard` ones, 5% of the others."""
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(n) < 0.3, "hard", "easy")
    margin = rng.normal(0, 2, n)
    flip = rng.random(n) < np.where((kind == "hard") & (np.abs(margin) < 1.5), 0.6, 0.05)
    human = np.where(flip, -2 * margin - np.sign(margin), np.sign(margin)) if answered else np.zeros(n)
    rows: dict[str, Any] = {
        "pair_id": [hash_fields(str(seed), str(i)) for i in range(n)],
        "p_a": 1 / (1 + np.exp(-(margin + human))),
        "p_tie": np.full(n, 0.1),
        "disagreement": np.zeros(n),
        "n_chars": rng.integers(50, 4000, n),
        "kind": kind,
        "language": ["en"] * n,
        "origin": ["o"] * n,
        "prior": np.zeros(n),
        "humans": [["ann"] if answered else []] * n,
        "contributions": [
            [{"voter": "judge", "n_votes": 1, "label": "a" if m > 0 else "b", "log_odds": float(m)}]
            + (
                [{"voter": "ann", "n_votes": 1, "label": "a" if m + h > 0 else "b", "log_odds": float(h)}]
                if answered
                else []
            )
            for m, h in zip(margin, human, strict=True)
        ],
    }
    schema = {"contributions": polars_schema(Verdicts)["contributions"], "humans": pl.List(pl.String)}
    return pl.DataFrame(rows, schema_overrides=schema)


def share_of_hard(name: str, model: Any, rows: pl.DataFrame) -> float:
    cls = find("routers", name)
    values = cls(name, cls.Config(), 1).values(model, rows)
    assert values.is_finite().all()
    best = rows.with_columns(values.alias("v")).sort("v", descending=True).head(100)
    return float((best["kind"] == "hard").mean())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["learned", "bandit"])
def test_they_ask_where_people_turned_labels_over(name: str) -> None:
    cls = find("routers", name)
    router = cls(name, cls.Config(), 1)
    model = router.fit(asked(2000, 1, answered=True))
    fresh = asked(1000, 2, answered=False)
    assert share_of_hard(name, model, fresh) > 0.8
    assert share_of_hard(name, {}, fresh) < 0.6
    assert router.fit(asked(2000, 1, answered=True)) == model


def test_people_are_known_by_name_where_the_prefix_does_not_tell() -> None:
    rows = asked(500, 3, answered=True)
    found = without_humans(rows)
    machine = rows["contributions"].list.first().struct.field("log_odds")
    assert np.allclose(found["margin_machine"].to_numpy(), machine.to_numpy())
    assert 0.05 < found["flipped"].mean() < 0.4  # type: ignore[operator]
    assert without_humans(rows.drop("humans"))["flipped"].sum() == 0


def test_too_few_answers_teach_nothing() -> None:
    learned = find("routers", "learned")
    router = learned("learned", learned.Config(), 1)
    assert router.fit(asked(10, 1, answered=True)) == {}
    assert router.fit(asked(300, 1, answered=False)) == {}


def test_the_bandit_spreads_one_queue_over_arms_and_reports_regret() -> None:
    bandit = find("routers", "bandit")
    router = bandit("bandit", bandit.Config(), 1)
    fresh = asked(2000, 4, answered=False)
    best = fresh.with_columns(router.values({}, fresh).alias("v")).sort("v", descending=True).head(200)
    assert set(best["kind"]) == {"hard", "easy"}
    regret = router.fit(asked(2000, 1, answered=True))["regret"]
    only_hard = router.fit(asked(2000, 1, answered=True).filter(pl.col("kind") == "hard"))["regret"]
    assert regret > only_hard >= 0

"""Strength leaves out who is judged by it, and bands count what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from schemas.tables import Pairs, Verdicts, Votes, polars_schema, rows_frame
from tests.transforms.publish import frames
from transforms.report.plots import strength_curve
from transforms.report.strength import strength_bands, strengths

RNG = np.random.default_rng(0)


def made(rows: list[dict[str, Any]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Votes and sample of pairs given by `source`, `heads` (log-odds of a), `people` (labels), `label`, `action`."""
    votes, sample = [], []
    for i, row in enumerate(rows):
        pair = f"{i:032x}"
        cast = {"src": ("source", row.get("source"), 1.0), "heads": ("reward", "a", row.get("heads"))}
        cast |= {f"p{k}": ("human", label, 3.0) for k, label in enumerate(row.get("people", ()))}
        cast = {voter: vote for voter, vote in cast.items() if vote[1] is not None and vote[2] is not None}
        votes += [frames.vote(pair, voter, label, kind=kind) for voter, (kind, label, _) in cast.items()]
        sign = {"a": 1.0, "b": -1.0, "tie": 0.0}
        contributions = [
            {
                "voter": voter,
                "n_votes": 1,
                "label": label,
                "log_odds": size if kind == "reward" else size * sign[label],
            }
            for voter, (kind, label, size) in cast.items()
        ]
        sample.append(
            {
                "pair_id": pair,
                "source_label": row.get("source"),
                "contributions": contributions,
                "p_a": row.get("p_a", 0.5),
                "p_tie": row.get("p_tie", 0.0),
                "label": row.get("label", "a"),
                "action": row.get("action", "keep"),
            }
        )
    schema = {name: polars_schema(Verdicts)[name] for name in ("contributions", "p_a", "p_tie", "label", "action")}
    schema |= {"pair_id": pl.String, "source_label": polars_schema(Pairs)["source_label"]}
    return rows_frame(votes, Votes), pl.DataFrame(sample, schema=schema)


def test_neither_people_nor_the_source_make_a_pair_strong() -> None:
    pairs = [
        {"source": "b", "heads": 0.7, "people": "bbb"},
        {"source": "b", "people": "b"},
        {"source": "a", "heads": 0.2},
    ]
    found = strengths(*made(pairs)).sort("pair_id")
    assert found["strength"].to_list() == [-0.7, 0.2]
    assert found["side"].to_list() == [-1.0, 1.0]


def test_without_a_source_strength_is_the_voters_own_side() -> None:
    found = strengths(*made([{"heads": -0.7}, {"heads": 0.2}])).sort("pair_id")
    assert found.select("side", "strength").rows() == [(-1.0, 0.7), (1.0, 0.2)]
    bands = strength_bands(*made([{"heads": -0.7, "people": "b"}, {"heads": 0.2, "people": "b"}]))
    assert bands["agree"].to_list() == [0.0, 1.0]
    assert bands["has_source"].to_list() == [False, False]


def test_bands_count_every_pair_once_and_agree_with_a_count_by_hand() -> None:
    n = 200
    rows = [
        {
            "source": "ab"[RNG.integers(2)],
            "heads": float(RNG.normal()),
            "people": "ab"[RNG.integers(2)] if RNG.random() < 0.5 else "",
            "label": "ab"[RNG.integers(2)],
            "action": ["keep", "drop"][RNG.integers(2)],
            "p_a": float(RNG.random()),
            "p_tie": float(RNG.random()),
        }
        for _ in range(n)
    ]
    bands = strength_bands(*made(rows))
    strong = [(row["heads"] * (1 if row["source"] == "a" else -1), row) for row in rows]
    assert bands["pairs"].to_list() == [n // 10] * 10
    for band in bands.iter_rows(named=True):
        inside = [row for strength, row in strong if band["low"] - 1e-8 <= strength <= band["high"] + 1e-8]
        asked = [row for row in inside if row["people"]]
        shown = [row for row in asked if row["action"] == "keep"]
        assert len(inside) == band["pairs"]
        assert (len(asked), len(shown)) == (band["n_people"], band["n_published"])
        assert band["agree"] == pytest.approx(np.mean([row["people"] == row["source"] for row in asked]))
        assert band["agree_published"] == pytest.approx(np.mean([row["people"] == row["label"] for row in shown]))
        assert band["agree_low"] < band["agree"] < band["agree_high"] or band["agree"] in (0.0, 1.0)
        right = [(row["p_a"] if row["source"] == "a" else 1 - row["p_a"]) * (1 - row["p_tie"]) for row in inside]
        assert band["expected"] == pytest.approx(np.mean(right))


def test_exchanging_a_and_b_changes_nothing() -> None:
    rows = [{"source": "a", "heads": float(x), "people": "a", "p_a": 0.7} for x in RNG.normal(size=30)]
    turned = [{"source": "b", "heads": -row["heads"], "people": "b", "p_a": 0.3, "label": "b"} for row in rows]
    one, other = (strength_bands(*made(given)) for given in (rows, turned))
    for name in one.columns:
        assert other[name].to_list() == pytest.approx(one[name].to_list())


def test_equal_strengths_share_a_band_and_nobody_else_gives_none() -> None:
    assert strength_bands(*made([{"source": "a", "heads": 1.0}] * 30))["pairs"].to_list() == [30]
    assert strength_bands(*made([{"source": "a", "people": "a"}] * 3)).is_empty()


def test_the_curve_is_drawn_with_and_without_people() -> None:
    rows = [{"source": "a", "heads": float(x), "people": "a" * (i % 2)} for i, x in enumerate(RNG.normal(size=40))]
    assert "published label" in strength_curve(strength_bands(*made(rows)))
    alone = strength_curve(strength_bands(*made([{**row, "people": ""} for row in rows])))
    assert "published label" not in alone
    assert "by the posterior" in alone

"""Laws of rows and rejects."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.tables import DatasetRows, Pairs, Rejects, Verdicts, rows_frame
from tests.transforms.publish import frames
from transforms.publish.rows import PUBLISHED, RowsConfig, dataset_rows


def everybody_in(pairs: pl.DataFrame, split: str = "train") -> pl.DataFrame:
    return pairs.select("prompt_id", split=pl.lit(split), reason=pl.lit(None, pl.String)).unique()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 10**6), st.sampled_from(["soften", "expected", "equal"]))
def test_every_pair_is_a_row_or_a_reject_and_never_both(n: int, seed: int, weight: str) -> None:
    pairs, _, verdicts = frames.workspace(n, seed)
    rows, rejects = dataset_rows(pairs, verdicts, everybody_in(pairs), RowsConfig(weight=weight))  # type: ignore[arg-type]
    assert sorted([*rows["pair_id"], *rejects["record_id"]]) == sorted(pairs["pair_id"])
    DatasetRows.validate(rows)
    Rejects.validate(rejects)
    by_id = {v["pair_id"]: v for v in verdicts.iter_rows(named=True)}
    stored = {p["pair_id"]: p for p in pairs.iter_rows(named=True)}
    for row in rows.iter_rows(named=True):
        v, p = by_id[row["pair_id"]], stored[row["pair_id"]]
        assert v["action"] in PUBLISHED
        other = "b" if v["label"] == "a" else "a"
        assert row["chosen"] == p[f"response_{v['label']}"]
        assert row["rejected"] == p[f"response_{other}"]
        assert row["model_chosen"] == p[f"model_{v['label']}"]
        assert row["p_chosen"] == pytest.approx(v["p_a"] if v["label"] == "a" else 1 - v["p_a"])
        assert row["margin"] == abs(v["margin"])
        sign = 1 if v["label"] == "a" else -1
        best = max(v["contributions"], key=lambda c: sign * c["log_odds"])
        assert row["decided_by"] == (best["voter"] if sign * best["log_odds"] > 0 else "prior")
        soft = 2 * row["p_chosen"] - 1
        expected = {"equal": 1, "expected": soft, "soften": soft if row["action"] == "soften" else 1}[weight]
        assert row["weight"] == pytest.approx(expected)
    for reject in rejects.iter_rows(named=True):
        assert reject["reason"] == by_id[reject["record_id"]]["reasons"][0]


def test_nobody_moved_it_means_the_prior_decided() -> None:
    row = frames.pair("q", "x", "y")
    v = frames.verdict(row, "keep", {"j": -0.5}, prior=2.0)
    pairs, verdicts = rows_frame([row], Pairs), rows_frame([v], Verdicts)
    rows, _ = dataset_rows(pairs, verdicts, everybody_in(pairs), RowsConfig())
    assert rows["decided_by"].to_list() == ["prior"]


def test_pairs_without_verdict_tied_or_without_split_are_rejected_with_their_reason() -> None:
    rows_in = [frames.pair(f"question {i}", "x", "y") for i in range(3)]
    tied = {**frames.verdict(rows_in[0], "keep", {"j": 0.1}), "label": "tie"}
    fine = frames.verdict(rows_in[1], "keep", {"j": 1.0})
    pairs, verdicts = rows_frame(rows_in, Pairs), rows_frame([tied, fine], Verdicts)
    splits = pl.DataFrame(
        {
            "prompt_id": [r["prompt_id"] for r in rows_in],
            "split": ["train", None, "test"],
            "reason": [None, "bridges_splits", None],
        }
    )
    rows, rejects = dataset_rows(pairs, verdicts, splits, RowsConfig())
    assert rows.is_empty()
    reasons = dict(rejects.select("record_id", "reason").iter_rows())
    assert [reasons[r["pair_id"]] for r in rows_in] == ["tie", "bridges_splits", "no_verdict"]


def test_a_verdict_without_its_pair_is_an_error_and_so_is_a_prompt_without_split() -> None:
    pairs, _, verdicts = frames.workspace(3)
    with pytest.raises(DataError, match="have no pair"):
        dataset_rows(pairs.head(1), verdicts, everybody_in(pairs), RowsConfig())
    with pytest.raises(DataError, match="has no split"):
        dataset_rows(pairs, verdicts, everybody_in(pairs).head(0), RowsConfig())

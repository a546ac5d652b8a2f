"""Every table's frames round-trip, and its rules refuse what the tables promise never to hold."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from dataframely.exc import ValidationError
from polars.testing import assert_frame_equal

from schemas.messages import message
from schemas.pairs import make_pair
from schemas.tables import (
    TABLES,
    DatasetRows,
    Pairs,
    Votes,
    conform,
    polars_schema,
    primary_key,
    rows_frame,
)


@pytest.mark.parametrize("name", TABLES)
def test_each_table_has_an_id_and_an_empty_frame_of_its_schema(name: str) -> None:
    table = TABLES[name]
    frame = rows_frame([], table)
    assert frame.schema == polars_schema(table)
    assert primary_key(table) in frame.columns
    table.validate(frame)


@pytest.mark.parametrize("name", TABLES)
def test_conform_brings_any_columns_to_the_table_and_is_idempotent(name: str) -> None:
    table = TABLES[name]
    key = primary_key(table)
    partial = pl.DataFrame({"extra": [1], key: ["0" * 32]})
    whole = conform(partial, table)
    assert whole.schema == polars_schema(table)
    assert whole[key].to_list() == ["0" * 32]
    assert_frame_equal(conform(whole, table), whole)


@pytest.mark.parametrize("name", TABLES)
def test_frames_survive_parquet(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    frame = conform(pl.DataFrame({primary_key(table): ["0" * 32, "1" * 32]}), table)
    frame.write_parquet(tmp_path / "t.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "t.parquet"), frame)


def pair_row() -> dict[str, object]:
    row, _ = make_pair(
        [message("user", "p")], [message("assistant", "x")], [message("assistant", "y")], origin="o", first_label="a"
    )
    return row


VOTE = {
    **{"vote_id": "0" * 32, "pair_id": "1" * 32, "voter": "v", "voter_group": "v", "kind": "judge", "order": "ab"},
    **{"sample": 0, "label": "a", "tokens_in": 0, "tokens_out": 0, "ms": 0.0},
}


def test_good_rows_pass() -> None:
    Pairs.validate(rows_frame([pair_row()], Pairs))
    Votes.validate(rows_frame([VOTE], Votes))


@pytest.mark.parametrize(
    "change",
    [
        {"pair_id": "short"},
        {"pair_id": None},
        {"source_label": "left"},
        {"context_kind": "mood"},
        {"origin": None},
        {"prompt": []},
        {"response_a": None},
    ],
)
def test_bad_pairs_fail(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pairs.validate(rows_frame([{**pair_row(), **change}], Pairs))


@pytest.mark.parametrize(
    "change",
    [
        *({"label": label} for label in ("-1", "both", None)),
        *({"p_a": p} for p in (-0.1, 1.1)),
        *({"order": order} for order in ("a", None)),
        {"kind": "oracle"},
        {"sample": -1},
        {"voter": None},
    ],
)
def test_bad_votes_fail(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Votes.validate(rows_frame([{**VOTE, **change}], Votes))


def test_an_id_may_stand_once_in_a_table() -> None:
    with pytest.raises(ValidationError):
        Votes.validate(rows_frame([VOTE, VOTE], Votes))


def test_published_rows_and_pairs_agree_on_their_common_columns() -> None:
    shared = {"pair_id", "prompt_id", "prompt", "context", "context_kind", "user_id", "group_id", "language", "kind"}
    assert {n: t for n, t in polars_schema(DatasetRows).items() if n in shared} == {
        n: t for n, t in polars_schema(Pairs).items() if n in shared
    }

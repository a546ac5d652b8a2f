"""The builders of rejects and votes."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import hash_fields
from schemas.rows import reject_row, vote_frame, vote_row
from schemas.tables import PAYLOAD_LIMIT, Rejects, Votes, rows_frame


@given(st.text(max_size=20), st.integers(0, 20))
def test_a_reject_is_a_row_of_its_table_and_its_payload_is_bounded(text: str, beyond: int) -> None:
    row = reject_row("clean", "echo", "x", text, "p" * (PAYLOAD_LIMIT + beyond))
    Rejects.validate(rows_frame([row], Rejects))
    assert row["payload"] == "p" * PAYLOAD_LIMIT
    assert row["reject_id"] == reject_row("clean", "echo", "x", "in other words", row["payload"])["reject_id"]


def test_a_reject_has_the_id_that_the_caller_asks_for() -> None:
    row = reject_row("ingest", "duplicate", "x", "why", "{}", ("ingest", "x", "1"))
    assert row["reject_id"] == hash_fields("ingest", "x", "1")
    assert row["reject_id"] != reject_row("ingest", "duplicate", "x", "why", "{}")["reject_id"]


def test_one_vote_and_many_have_the_same_columns() -> None:
    one = rows_frame([vote_row(hash_fields("1"), hash_fields("p"), "j", "judge", "a")], Votes)
    many = vote_frame(one.select("vote_id", "pair_id", "voter", "kind", "label"))
    Votes.validate(one)
    assert one.equals(many)
    assert one["voter_group"].item() == "j"


def test_what_is_told_of_a_vote_stands_above_the_defaults() -> None:
    row = vote_row(hash_fields("1"), hash_fields("p"), "j", "judge", "a", voter_group="g", order="ba", tokens_in=3)
    frame = rows_frame([row], Votes)
    assert frame.select("voter_group", "order", "tokens_in").row(0) == ("g", "ba", 3)
    assert vote_frame(frame.with_columns(p_a=pl.lit(0.25))).select("voter_group", "p_a").row(0) == ("g", 0.25)

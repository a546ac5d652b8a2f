"""The builders of rejects and votes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import hash_fields
from schemas.rows import reject_row
from schemas.tables import PAYLOAD_LIMIT, Rejects, rows_frame


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

"""Rows of the two tables that many parts of prefine write: rejects and votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from schemas.ids import hash_fields
from schemas.tables import PAYLOAD_LIMIT, Row, Votes, conform

HUMAN = "human:"  # begins the voter's name in a vote of somebody whom we asked
_DEFAULTS = {"order": "none", "sample": 0, "tokens_in": 0, "tokens_out": 0, "ms": 0.0}


def reject_row(
    stage: str, reason: str, record_id: str, detail: str, payload: str, id_fields: Sequence[str] | None = None
) -> Row:
    """A row of `rejects`.

    Args:
        payload: JSON text of the record; kept up to `PAYLOAD_LIMIT` characters.
        id_fields: what the id is the hash of; by default stage, reason, record_id and the payload as kept.
    """
    kept = payload[:PAYLOAD_LIMIT]
    return {
        "reject_id": hash_fields(*(id_fields or (stage, reason, record_id, kept))),
        "stage": stage,
        "reason": reason,
        "record_id": record_id,
        "detail": detail,
        "payload": kept,
    }


def told_apart(rejects: Iterable[Row]) -> list[Row]:
    """The rejects in order, each with an id of its own: a record that failed alike twice, to the letter, is two."""
    times: Counter[str] = Counter()
    own: dict[str, Row] = {}
    for row in rejects:
        reject_id = row["reject_id"]
        while reject_id in own:  # more than once where some of the rejects were told apart before
            times[row["reject_id"]] += 1
            reject_id = hash_fields(row["reject_id"], str(times[row["reject_id"]]))
        own[reject_id] = row | {"reject_id": reject_id}
    return list(own.values())


def vote_row(vote_id: str, pair_id: str, voter: str, kind: str, label: str, **columns: Any) -> Row:
    """A row of `votes`; by default a group of its own, with no order, that cost nothing.

    Args:
        columns: further columns, those with a default among them.
    """
    named = {"vote_id": vote_id, "pair_id": pair_id, "voter": voter, "voter_group": voter, "kind": kind, "label": label}
    return {**named, **_DEFAULTS, **columns}


def vote_frame(votes: pl.DataFrame) -> pl.DataFrame:
    """As `vote_row`, for many: a `votes` frame of one that has at least the columns of its arguments."""
    defaults = {"voter_group": pl.col("voter"), **{name: pl.lit(value) for name, value in _DEFAULTS.items()}}
    missing = [value.alias(name) for name, value in defaults.items() if name not in votes.columns]
    return conform(votes.with_columns(missing), Votes)

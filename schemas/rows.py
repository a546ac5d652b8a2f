"""Rows of the two tables that many parts of prefine write: rejects and votes."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.ids import hash_fields
from schemas.tables import PAYLOAD_LIMIT, Row


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

"""The records generators make and read: responses, rejects, and the JSON in their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.ids import hash_fields
from schemas.messages import Message, message, text_of
from schemas.tables import PAYLOAD_LIMIT, Row


@dataclass(frozen=True)
class Response:
    """A candidate response with how it was made; `details` goes into the pair's `origin_ref`."""

    messages: tuple[Message, ...]
    model: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The response as plain text."""
        return text_of(self.messages)


def written(text: str, model: str | None = None, **details: Any) -> Response:
    """A response of one assistant turn."""
    return Response((message("assistant", text),), model, details)


def reject_row(stage: str, reason: str, record_id: str, detail: str, payload: Any) -> Row:
    """A `rejects` row; the payload is JSON cut at `PAYLOAD_LIMIT` characters."""
    text = json_text(payload)[:PAYLOAD_LIMIT]
    return {
        "reject_id": hash_fields(stage, reason, record_id, text),
        "stage": stage,
        "reason": reason,
        "record_id": record_id,
        "detail": detail,
        "payload": text,
    }


def group_of(row: Row) -> str:
    """What must share a split with this row: its group, else its prompt."""
    return str(row.get("group_id") or row["prompt_id"])


def read_meta(row: Row) -> dict[str, Any]:
    """The row's `meta` as an object; {} when absent or not a JSON object."""
    if not row.get("meta"):
        return {}
    value = orjson.loads(row["meta"])
    return value if isinstance(value, dict) else {}


def json_text(value: Any) -> str:
    """Canonical JSON text."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()

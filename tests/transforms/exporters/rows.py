"""Published rows made by hand, for the tests of the exporters."""

from __future__ import annotations

from typing import Any

import polars as pl

from schemas.ids import hash_fields
from schemas.messages import message, messages_id
from schemas.tables import DatasetRows, rows_frame


def row(prompt: Any, chosen: Any, rejected: Any, **fields: Any) -> dict[str, Any]:
    """A row from strings or lists of messages."""
    prompt = [message("user", prompt)] if isinstance(prompt, str) else prompt
    chosen = [message("assistant", chosen)] if isinstance(chosen, str) else chosen
    rejected = [message("assistant", rejected)] if isinstance(rejected, str) else rejected
    return {
        "pair_id": hash_fields(*map(messages_id, (prompt, chosen, rejected)), str(fields.get("context"))),
        "prompt_id": messages_id(prompt),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_is": "a",
        "margin": 1.0,
        "p_chosen": 0.75,
        "weight": 1.0,
        "split": "train",
        "origin": "test",
        "action": "keep",
        "decided_by": "judge",
        "reasons": [],
        **fields,
    }


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    """The rows as a validated frame."""
    return DatasetRows.validate(rows_frame(list(rows), DatasetRows))

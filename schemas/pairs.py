"""How a pair gets its identity: one order for the two responses, one id for the pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.ids import hash_fields
from schemas.messages import Message, messages_id

_MIRROR = {"a": "b", "b": "a", "ab": "ba", "ba": "ab"}


def mirrored(label: str) -> str:
    """The label or order as seen with a and b exchanged; `tie`, `none` and states stay as they are."""
    return _MIRROR.get(label, label)


def make_pair(
    prompt: Sequence[Message],
    first: Sequence[Message],
    second: Sequence[Message],
    *,
    context: str | None = None,
    first_label: str | None = None,
    model_first: str | None = None,
    model_second: str | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], bool]:
    """Build a `pairs` row from two responses in any order.

    `pair_id` hashes (prompt, context, the two responses' hashes in sorted order), so a pair met twice
    in opposite orders is one pair and position says nothing of the winner.

    Args:
        first_label: the source's label with `a` meaning `first` and `b` meaning `second`.
        fields: further columns of the `pairs` table.

    Returns:
        The row, and whether the responses were exchanged (first became `response_b`).

    Raises:
        ValueError: the two responses are identical.
    """
    prompt_id, first_id, second_id = messages_id(prompt), messages_id(first), messages_id(second)
    if first_id == second_id:
        raise ValueError("identical responses")
    swapped = second_id < first_id
    a, b = (second, first) if swapped else (first, second)
    label = mirrored(first_label) if swapped and first_label else first_label
    row: dict[str, Any] = {
        "pair_id": hash_fields(prompt_id, context or "", min(first_id, second_id), max(first_id, second_id)),
        "prompt_id": prompt_id,
        "prompt": list(prompt),
        "context": context,
        "response_a": list(a),
        "response_b": list(b),
        "model_a": model_second if swapped else model_first,
        "model_b": model_first if swapped else model_second,
        "source_label": label,
        **fields,
    }
    return row, swapped

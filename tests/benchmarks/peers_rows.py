"""The arithmetic the peers' pipelines are given: a pair's content id, its votes counted, the majority's choice."""

from __future__ import annotations

from hashlib import sha256
from typing import Any


def digest(*texts: str) -> str:
    """The first 32 hex digits of the SHA-256 of texts."""
    return sha256("\x1f".join(texts).encode()).hexdigest()[:32]


def pair_id(row: dict[str, Any]) -> str:
    """A content id that does not depend on the responses' order."""
    prompt, first, second = (digest(row[name]) for name in ("prompt", "response_a", "response_b"))
    return digest(prompt, min(first, second), max(first, second))


def decided(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its id, how many voted for either response, and `winner` a, b or tie."""
    for_a = sum(vote["label"] == "a" for vote in row["votes"])
    for_b = len(row["votes"]) - for_a
    winner = "tie" if for_a == for_b else "a" if for_a > for_b else "b"
    chosen, rejected = ("response_b", "response_a") if winner == "b" else ("response_a", "response_b")
    found = {"pair_id": pair_id(row), "for_a": for_a, "for_b": for_b, "winner": winner}
    return {**row, **found, "chosen": row[chosen], "rejected": row[rejected]}

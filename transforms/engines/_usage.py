"""What requests cost, by engine and by who asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transforms.plugins import Reply, Request


@dataclass
class Usage:
    """Account of requests. `calls` were sent; hits came from the memo, joined ones waited for an equal request."""

    calls: int = 0
    memo_hits: int = 0
    joined: int = 0
    ok: int = 0
    refused: int = 0
    errors: int = 0
    gave_up: int = 0  # errors that asking again may cure
    retries: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    ms: float = 0.0  # sum over requests, retries and waits included
    recalled_in: int = 0  # tokens of the answers that came from the memo or were joined
    recalled_out: int = 0

    def recall(self, reply: Reply) -> None:
        """Add the tokens of an answer that was not paid for this time."""
        self.recalled_in += reply.tokens_in
        self.recalled_out += reply.tokens_out

    def count(self, reply: Reply) -> None:
        """Add a request that was sent."""
        self.calls += 1
        self.ok += reply.state == "ok"
        self.refused += reply.state == "refused"
        self.errors += reply.state == "error"
        self.gave_up += reply.transient
        self.retries += reply.retries
        self.tokens_in += reply.tokens_in
        self.tokens_cached += reply.tokens_cached
        self.tokens_out += reply.tokens_out
        self.ms += reply.ms


class Ledger:
    """Usage by engine and purpose."""

    def __init__(self) -> None:
        self._usage: dict[tuple[str, str], Usage] = {}

    def of(self, request: Request) -> Usage:
        """The account a request goes to."""
        key = (request.engine, request.purpose)
        usage = self._usage.get(key)
        if usage is None:
            usage = self._usage[key] = Usage()
        return usage

    def rows(self) -> list[dict[str, Any]]:
        """One row per (engine, purpose), sorted."""
        return [
            {"engine": engine, "purpose": purpose, **asdict(usage)}
            for (engine, purpose), usage in sorted(self._usage.items())
        ]

    def total(self) -> Usage:
        """The sum over engines and purposes."""
        return sum_usage(asdict(usage) for usage in self._usage.values())


def sum_usage(rows: Iterable[Mapping[str, Any]]) -> Usage:
    """The sum of usages given as mappings, as `Ledger.rows` gives them; other fields are left aside."""
    total = Usage()
    for row in rows:
        for name in Usage.__dataclass_fields__:
            setattr(total, name, getattr(total, name) + row.get(name, 0))
    return total

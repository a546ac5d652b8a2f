"""What requests cost, by engine and by who asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
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
    busy_s: float = (
        0.0  # this account's share of the time in which its engine had anything to do; all shares add up to it
    )
    recalled_in: int = 0  # tokens of the answers that came from the memo or were joined
    recalled_out: int = 0

    def recall(self, reply: Reply) -> None:
        """Add the tokens of an answer that was not paid for this time."""
        self.recalled_in += reply.tokens_in
        self.recalled_out += reply.tokens_out

    def count(self, reply: Reply, busy_s: float = 0.0) -> None:
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
        self.busy_s += busy_s


@dataclass
class SharedClock:
    """Divides the time in which requests are in flight among them, equally at every moment.

    The shares of all requests add up to the time in which at least one was in flight, so calls over shares is a
    throughput, of one account as of all of them.
    """

    now: Callable[[], float] = time.monotonic
    _in_flight: int = field(default=0, init=False)
    _share: float = field(default=0.0, init=False)  # of a request that was in flight all the time so far
    _at: float = field(default=0.0, init=False)

    def begin(self) -> float:
        """A request goes out; give the result to `end`."""
        self._advance()
        self._in_flight += 1
        return self._share

    def end(self, begun: float) -> float:
        """A request is back: its seconds."""
        self._advance()
        self._in_flight -= 1
        return self._share - begun

    def _advance(self) -> None:
        now = self.now()
        if self._in_flight:
            self._share += (now - self._at) / self._in_flight
        self._at = now


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

"""What requests cost, by engine and by who asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from transforms.llm.request import Reply, Request

TOKENIZE = "tokenize"  # path and purpose of requests that count tokens: they ask the model nothing
EXAMPLE_LIMIT = 300  # characters of an example kept with a count of failures


@dataclass
class Usage:
    """Account of requests. `calls` were sent; hits came from the memo, joined ones waited for an equal request."""

    calls: int = 0
    memo_hits: int = 0
    joined: int = 0
    ok: int = 0
    refused: int = 0
    errors: int = 0
    gave_up: int = 0  # errors that asking again may cure, those of joined requests too
    retries: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    estimated: int = 0  # replies whose tokens the server did not count
    ms: float = 0.0  # sum over requests, retries and waits included
    busy_s: float = (
        0.0  # this account's share of the time in which its engine had anything to do; all shares add up to it
    )
    recalled_in: int = 0  # tokens of the answers that came from the memo or were joined
    recalled_out: int = 0

    def recall(self, reply: Reply, joined: bool = False) -> None:
        """Add an answer that was not paid for this time: from the memo, or from an equal request on the wire."""
        self.memo_hits += not joined
        self.joined += joined
        self.gave_up += reply.transient
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
        self.estimated += reply.estimated
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


@dataclass
class Failures:
    """Requests without an answer, by cause.

    Attributes:
        gave_up: cause -> [requests, an example]: asking again may cure them.
        final: the same of those that the server turned away for good.
    """

    gave_up: dict[str, tuple[int, str]] = field(default_factory=dict)
    final: dict[str, tuple[int, str]] = field(default_factory=dict)

    def count(self, reply: Reply) -> None:
        """Add a reply, if it is an error."""
        if reply.state != "error":
            return
        counted = self.gave_up if reply.transient else self.final
        self._add(counted, reply.cause or "an error", 1, (reply.error or "")[:EXAMPLE_LIMIT])

    def add(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what `asdict` made of other failures."""
        for name in ("gave_up", "final"):
            for cause, (n, example) in other.get(name, {}).items():
                self._add(getattr(self, name), cause, n, example)

    def _add(self, counts: dict[str, tuple[int, str]], cause: str, n: int, example: str) -> None:
        before, first = counts.get(cause, (0, example))
        counts[cause] = (before + n, first)


class Ledger:
    """Usage by engine and purpose, and what failed."""

    def __init__(self) -> None:
        self._usage: dict[tuple[str, str], Usage] = {}
        self.failures = Failures()

    def count(self, request: Request, reply: Reply, busy_s: float) -> None:
        """Add a request that was sent."""
        self.of(request.engine, request.purpose).count(reply, busy_s)
        if request.path != TOKENIZE:
            self.failures.count(reply)

    def recall(self, request: Request, reply: Reply, joined: bool = False) -> None:
        """Add a request whose answer was in the memo, or on its way to another asker."""
        self.of(request.engine, request.purpose).recall(reply, joined)
        if request.path != TOKENIZE:
            self.failures.count(reply)

    def of(self, engine: str, purpose: str) -> Usage:
        """The account of who asks an engine."""
        key = (engine, purpose)
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

    def spent(self) -> Usage:
        """The sum of what a budget counts: all but the counting of tokens."""
        return sum_usage(asdict(usage) for (_, purpose), usage in self._usage.items() if purpose != TOKENIZE)


def sum_usage(rows: Iterable[Mapping[str, Any]]) -> Usage:
    """The sum of usages given as mappings, as `Ledger.rows` gives them; other fields are left aside."""
    total = Usage()
    for row in rows:
        for name in Usage.__dataclass_fields__:
            setattr(total, name, getattr(total, name) + row.get(name, 0))
    return total

"""One event loop, one set of clients and one budget per process, for callers that are not asynchronous.

    with Session(engines, budget) as session:
        session.run(works)          # from any number of threads; their windows share the engines' concurrency

Beam calls `process` in plain threads; they all reach the same loop, so requests are bounded per process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol, Self, TypeVar

from transforms.engines._http import Client
from transforms.engines.window import Budget, Caller, Ledger, Work, answer
from transforms.plugins import Engine

T = TypeVar("T")


class Connectable(Engine, Protocol):
    """An engine that can give a client of its servers."""

    def connect(self, urls: Sequence[str], workers: int = 1) -> Client:
        """A client with one of `workers` equal shares of the engine's concurrency."""
        ...


class Session:
    """Servers running, clients connected, a loop turning in a thread of its own.

    Args:
        engines: recipe name -> engine.
        budget: what the whole run may spend.
        workers: processes that share concurrency and budget.
        urls: recipe name -> base URLs of servers that somebody else keeps running; the others are served here.
        open_units: units of work open per request slot; above 1, so that a unit that thinks does not idle a slot.
    """

    def __init__(
        self,
        engines: Mapping[str, Connectable],
        budget: Budget = Budget(),  # noqa: B008 immutable
        workers: int = 1,
        urls: Mapping[str, Sequence[str]] | None = None,
        open_units: float = 1.5,
    ) -> None:
        self._engines, self._budget, self._workers, self._urls = engines, budget, workers, dict(urls or {})
        self._open_units = open_units
        self._servers = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm-session", daemon=True)
        self.caller: Caller

    def __enter__(self) -> Self:
        """Raises EngineError if an engine cannot be started."""
        try:
            for name, engine in self._engines.items():
                if name not in self._urls:
                    self._urls[name] = self._servers.enter_context(engine.serve())
            self._thread.start()
            self.do(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            if hasattr(self, "_clients"):
                self.do(self._clients.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._servers.close()

    @property
    def ledger(self) -> Ledger:
        """Account of everything asked in this session."""
        return self.caller.ledger

    def run(self, works: Iterable[Work[T]], max_units: int | None = None) -> None:
        """Answer all buckets; see `window.answer`.

        Raises:
            BudgetExceeded, EngineError: everything answered until then is in the memos.
        """
        self.do(answer(works, max_units=max_units or self.max_units, on_failure=self.caller.stop))

    @property
    def max_units(self) -> int:
        """Units open at once: enough to fill every engine's share of slots."""
        slots = sum(client.concurrency for client in self.caller.clients.values())
        return max(2, int(self._open_units * slots))

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the session's loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _connect(self) -> None:
        self._clients = AsyncExitStack()
        clients = {
            name: await self._clients.enter_async_context(engine.connect(self._urls[name], self._workers))
            for name, engine in self._engines.items()
        }
        self.caller = Caller(clients, self._budget.share(self._workers))

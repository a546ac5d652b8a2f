"""The continuous window: many units of work open at once, requests bounded per engine, nothing asked twice.

`Caller` answers requests for one process: memo, then what is already on the wire, then budget, then engine.
`answer` keeps units of work (one prompt for a generator, all pairs of one prompt for a judge) flowing from
any number of buckets. There is no barrier: as a unit ends the next one starts, whichever bucket it is of, so
a straggler idles nothing; a bucket is handed over the moment its own last unit ends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from schemas.errors import BudgetExceeded, UsageError
from transforms.llm.client import UNIT, Client
from transforms.llm.reasoning import spoken
from transforms.llm.request import Reply, Request
from transforms.llm.usage import TOKENIZE, Ledger, SharedClock, Usage, sum_usage
from transforms.storage.final_errors import AskingRun
from transforms.storage.memo import Memo

__all__ = ["Asker", "Budget", "Caller", "Ledger", "Usage", "Work", "answer", "sum_usage"]

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """What one run may spend; None: no limit. Requests on the wire when it trips are finished and kept."""

    max_calls: int | None = None
    max_tokens: int | None = None  # prompt and reply tokens together
    max_seconds: float | None = None

    def share(self, workers: int) -> Budget:
        """The part of one of `workers` processes; time is not divided."""
        return Budget(_share(self.max_calls, workers), _share(self.max_tokens, workers), self.max_seconds)

    def less(self, spent: Usage, seconds: float) -> Budget:
        """What is left when this was spent."""
        return Budget(
            None if self.max_calls is None else max(0, self.max_calls - spent.calls),
            None if self.max_tokens is None else max(0, self.max_tokens - spent.tokens_in - spent.tokens_out),
            None if self.max_seconds is None else max(0.0, self.max_seconds - seconds),
        )


def _share(limit: int | None, workers: int) -> int | None:
    return limit if not limit else max(1, limit // workers)


@dataclass
class Caller:
    """Answers the requests of one process. Make it, use it and close it on one event loop.

    Args:
        clients: engine name -> open client.
        budget: this process's share.
        workers: processes that ask side by side, so that the times of all add up to the time that passed.
        run: which run asks, and what it knows of the servers.
    """

    clients: Mapping[str, Client]
    budget: Budget = Budget()
    workers: int = 1
    ledger: Ledger = field(default_factory=Ledger)
    run: AskingRun = field(default_factory=AskingRun)

    def __post_init__(self) -> None:
        self._on_wire: dict[str, asyncio.Future[Reply] | None] = {}
        self._started = time.monotonic()
        self._clocks: defaultdict[str, SharedClock] = defaultdict(SharedClock)
        self._landed = asyncio.Event()
        self._calls = 0
        self._tokens = 0
        self._stopped: BaseException | None = None

    def asker(self, memo: Memo) -> Asker:
        """`ask` for the units of one bucket, whose memo this is."""
        return Asker(self, memo)

    def stop(self, reason: BaseException) -> None:
        """Let every later request that would be sent raise `reason`; what is on the wire is finished and kept."""
        self._stopped = self._stopped or reason

    async def finish(self) -> None:
        """Wait for what is on the wire: a unit that failed may have left requests of its own behind."""
        while self._on_wire:
            self._landed.clear()
            await self._landed.wait()

    async def ask(self, request: Request, memo: Memo, ledger: Ledger) -> Reply:
        """The reply, from the memo if it is there, with what the model thought apart from what it says.

        The memo keeps replies as they came.

        Raises:
            BudgetExceeded: the reply is not known and the budget is spent.
            EngineError: nothing answers.
            UsageError: the recipe has no such engine.
        """
        known = memo.get(request.request_id)
        if known is not None:
            for account in (self.ledger, ledger):
                account.recall(request, known)
            if known.state == "ok" and request.engine in self.clients:
                self.clients[request.engine].has_answered = True
            return spoken(known)
        error = memo.errors.get(request.request_id)
        if error is not None and error.stands(request.engine, self.run):
            for account in (self.ledger, ledger):
                account.recall(request, error.reply)
            return error.reply
        if request.request_id in self._on_wire:
            reply = await self._join(request.request_id)
            memo.put(request, reply, self.run)
            for account in (self.ledger, ledger):
                account.recall(request, reply, joined=True)
            return spoken(reply)
        client = self.clients.get(request.engine)
        if client is None:
            raise UsageError(f"no engine named {request.engine!r}; known: {', '.join(sorted(self.clients))}")
        self._spend(request.path)
        self._on_wire[request.request_id] = None
        clock = self._clocks[request.engine]
        begun = clock.begin()
        try:
            try:
                reply = await client.send(request, None if error is None else error.cause)
            finally:
                busy_s = clock.end(begun) / self.workers
                self._landed.set()
            memo.put(request, reply, self.run)
        except BaseException as error:
            waiter = self._on_wire.pop(request.request_id)
            if waiter is not None and not waiter.done():
                waiter.set_exception(error if isinstance(error, Exception) else RuntimeError("cancelled"))
                waiter.exception()  # marks it as seen: who waited may have gone
            raise
        waiter = self._on_wire.pop(request.request_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)
        self._tokens += reply.tokens_in + reply.tokens_out
        for account in (self.ledger, ledger):
            account.count(request, reply, busy_s)
        return spoken(reply)

    def _join(self, request_id: str) -> asyncio.Future[Reply]:
        waiter = self._on_wire[request_id]
        if waiter is None:
            waiter = self._on_wire[request_id] = asyncio.get_running_loop().create_future()
        return asyncio.shield(waiter)

    def _spend(self, path: str) -> None:
        if self._stopped is not None:
            raise self._stopped
        if path == TOKENIZE:
            return
        limits = self.budget
        spent = ""
        if limits.max_calls is not None and self._calls >= limits.max_calls:
            spent = f"{self._calls} calls"
        elif limits.max_tokens is not None and self._tokens >= limits.max_tokens:
            spent = f"{self._tokens} tokens"
        elif limits.max_seconds is not None and time.monotonic() - self._started >= limits.max_seconds:
            spent = f"{time.monotonic() - self._started:.0f} seconds"
        if spent:
            raise BudgetExceeded(f"the budget is spent ({spent}); every answer is kept: run again to go on")
        self._calls += 1


@dataclass
class Asker:
    """`ask` of one bucket, with the bucket's own account."""

    caller: Caller
    memo: Memo
    ledger: Ledger = field(default_factory=Ledger)

    async def __call__(self, request: Request) -> Reply:
        """See `Caller.ask`."""
        return await self.caller.ask(request, self.memo, self.ledger)


Start = Callable[[], Awaitable[T]]


@dataclass
class Work(Generic[T]):
    """A bucket: units to run and what to do with their results, in the units' order, once all are there."""

    units: Iterable[Start[T]]
    finish: Callable[[list[T]], None]


class _Open(Generic[T]):
    """A bucket on its way."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.results: dict[int, T] = {}
        self.started = 0
        self.exhausted = False
        self.handed_over = False


async def answer(
    works: Iterable[Work[T]],
    *,
    max_units: int,
    max_buckets: int = 64,
    on_failure: Callable[[BaseException], None] | None = None,
) -> None:
    """Run all units of all buckets, at most `max_units` at once over at most `max_buckets` buckets.

    `works` is read lazily and one bucket ahead, in a thread, and `finish` is called in a thread, so that reading
    and writing files stops no request. Memory holds the open buckets and their results. On the first failure no
    further unit starts, `on_failure` is told (give it a `Caller`'s `stop`), open units run to their end, complete
    buckets are handed over, and the failure is raised.

    Raises:
        BaseException: the first failure of a unit, of `works` or of `finish`.
    """
    window: _Window[T] = _Window(max_units, max_buckets, on_failure)
    await window.run(iter(works))


class _Window(Generic[T]):
    def __init__(self, max_units: int, max_buckets: int, on_failure: Callable[[BaseException], None] | None) -> None:
        self._max_units, self._max_buckets, self._on_failure = max_units, max_buckets, on_failure
        self._failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._n_units = self._n_buckets = 0
        self._numbers = itertools.count()
        self._progress = asyncio.Event()

    async def run(self, works: Iterator[Work[T]]) -> None:
        ahead = asyncio.create_task(asyncio.to_thread(next, works, None))
        try:
            while (work := await ahead) is not None:
                ahead = asyncio.create_task(asyncio.to_thread(next, works, None))
                await self._feed(_Open(work))
                if self._failures:
                    break
            while self._tasks:
                await asyncio.gather(*self._tasks)
        except BaseException as error:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if not isinstance(error, Exception):
                raise
            self._failures.append(error)
        finally:
            await asyncio.gather(ahead, return_exceptions=True)
        if self._failures:
            raise self._failures[0]

    async def _feed(self, bucket: _Open[T]) -> None:
        self._n_buckets += 1
        for start in bucket.work.units:
            bucket.started += 1
            self._n_units += 1
            self._spawn(self._run(bucket, bucket.started - 1, start))
            await self._room()
            if self._failures:
                return
        bucket.exhausted = True
        self._hand_over(bucket)
        await self._room()

    async def _room(self) -> None:
        while not self._failures and (self._n_units >= self._max_units or self._n_buckets >= self._max_buckets):
            self._progress.clear()
            await self._progress.wait()

    async def _run(self, bucket: _Open[T], index: int, start: Start[T]) -> None:
        UNIT.set(next(self._numbers))
        try:
            bucket.results[index] = await start()
        except Exception as error:
            self._fail(error)
        else:
            self._hand_over(bucket)
        finally:
            self._n_units -= 1
            self._progress.set()

    def _hand_over(self, bucket: _Open[T]) -> None:
        if bucket.exhausted and len(bucket.results) == bucket.started and not bucket.handed_over:
            bucket.handed_over = True
            self._spawn(self._finish(bucket))

    async def _finish(self, bucket: _Open[T]) -> None:
        try:
            await asyncio.to_thread(bucket.work.finish, [bucket.results[i] for i in range(bucket.started)])
        except Exception as error:
            self._fail(error)
        finally:
            self._n_buckets -= 1
            self._progress.set()

    def _fail(self, error: BaseException) -> None:
        self._failures.append(error)
        if self._on_failure is not None and len(self._failures) == 1:
            self._on_failure(error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

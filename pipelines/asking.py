"""Stages that ask LLMs: engines stand for the whole stage, a lane of buckets shares one continuous window."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from pipelines.progress import LaneProgress
from pipelines.stage import Stage
from schemas.recipe import CallBudget, PluginUse
from transforms.build import build, engines_of
from transforms.engines.window import Budget, Caller, Ledger, Work, answer
from transforms.plugins import Ask
from transforms.storage.memo import Memo
from transforms.storage.workspace import Output

Unit = Callable[[], Awaitable[Any]]

_UNITS_PER_SLOT = 2  # open units per request slot: enough that a slot never waits for a unit to start


@dataclass(frozen=True)
class AskingStage(Stage):
    """A stage whose plug-ins are coroutines given `ask`.

    Attributes:
        endpoints: base URLs of every engine in use, while the stage runs.
        n_lanes: worker processes or threads that share the engines' concurrency and the budget.
    """

    endpoints: dict[str, list[str]] = field(default_factory=dict)
    n_lanes: int = 1

    counts_units: ClassVar[bool] = True

    kind: ClassVar[str]  # of the stage's plug-ins

    @property
    @abstractmethod
    def uses(self) -> list[PluginUse]:
        """The plug-in uses of this stage."""

    @property
    @abstractmethod
    def budget(self) -> CallBudget:
        """What the stage's calls may cost."""

    @abstractmethod
    def unit_ids(self, bucket: int) -> int:
        """How many units of work a bucket holds."""

    @abstractmethod
    def work(self, bucket: int, ask: Ask) -> tuple[list[Unit], Callable[[list[Any]], Output]]:
        """A bucket's units of work, and what makes its output of their results in order."""

    @cached_property
    def engines(self) -> dict[str, Any]:
        """The engines that this stage's plug-ins name."""
        names = sorted({name for use in self.uses for _, name in engines_of(self.kind, use)})
        return {name: build("engines", self.recipe.engines[name], self.recipe.seed) for name in names}

    @property
    def models(self) -> dict[str, str]:
        """Engine name -> identity of its model."""
        return {name: engine.model for name, engine in self.engines.items()}

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Engines answer for the duration of the block; none is started where no bucket holds any work."""
        if not self.uses or not any(self.unit_ids(bucket) for bucket in pending):
            yield self
            return
        with ExitStack() as stack:
            endpoints = {name: stack.enter_context(engine.serve()) for name, engine in self.engines.items()}
            yield replace(self, endpoints=endpoints, n_lanes=min(len(pending), self.recipe.beam.workers))

    def units(self, pending: Sequence[int]) -> tuple[int, str]:
        """Units of the pending buckets."""
        return sum(self.unit_ids(bucket) for bucket in pending), "prompts"

    def lanes(self, pending: Sequence[int], workers: int) -> list[tuple[int, ...]]:
        """One lane per worker, so that a worker's window spans all its buckets."""
        return [tuple(pending[lane :: self.n_lanes]) for lane in range(self.n_lanes)]

    def process_lane(self, buckets: Sequence[int], commit: Callable[[int, Output], None]) -> None:
        """Answer all buckets of the lane in one window."""
        asyncio.run(self._answer(buckets, commit))

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Caller]:
        """Open clients of every engine, and who answers through them within this lane's share of the budget."""
        section = self.budget
        budget = Budget(section.max_calls, section.max_tokens, section.max_seconds).share(self.n_lanes)
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(self.engines[name].connect(urls, self.n_lanes))
                for name, urls in self.endpoints.items()
            }
            yield Caller(clients, budget)

    async def _answer(self, buckets: Sequence[int], commit: Callable[[int, Output], None]) -> None:
        progress = LaneProgress(self.workspace, self.name, buckets[0], sum(map(self.unit_ids, buckets)))
        async with self.calling() as caller:
            slots = sum(client.concurrency for client in caller.clients.values())
            await answer(
                (self._work(bucket, caller, progress, commit) for bucket in buckets),
                max_units=max(1, _UNITS_PER_SLOT * slots),
                on_failure=caller.stop,
            )

    def _work(
        self, bucket: int, caller: Caller, progress: LaneProgress, commit: Callable[[int, Output], None]
    ) -> Work[Any]:
        memo = Memo(self.workspace.bucket_dir("generations", bucket))
        memo.load()
        asker = caller.asker(memo)
        units, output_of = self.work(bucket, asker)

        async def counted(unit: Unit) -> Any:
            result = await unit()
            progress.advance()
            return result

        def finish(results: list[Any]) -> None:
            output = output_of(results)
            output.usage = usage_of(asker.ledger)
            output.complete = asker.ledger.total().gave_up == 0
            memo.close()
            commit(bucket, output)

        return Work([_start(counted, unit) for unit in units], finish)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}


def _start(counted: Callable[[Unit], Awaitable[Any]], unit: Unit) -> Unit:
    return lambda: counted(unit)


def usage_of(ledger: Ledger) -> dict[str, Any]:
    """Usage by `engine/purpose`, as checkpoints keep it."""
    rows = ledger.rows()
    return {
        f"{row['engine']}/{row['purpose']}": {k: v for k, v in row.items() if k not in ("engine", "purpose")}
        for row in rows
    }

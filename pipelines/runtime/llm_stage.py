"""Stages that ask LLMs: engines stand for the whole stage, a lane of buckets shares one continuous window."""

from __future__ import annotations

import asyncio
import gc
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from pipelines.runtime.beam_options import is_local
from pipelines.runtime.failures import check_failures, failure_notes
from pipelines.runtime.progress import LaneProgress
from pipelines.runtime.stage_class import Stage
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.ids import canonical_json
from schemas.recipe import AskingSection, PluginUse
from transforms.engines.base import Engine
from transforms.llm.request import Ask
from transforms.llm.window import Budget, Caller, Ledger, Work, answer
from transforms.plugins.base import Plugin
from transforms.plugins.build import build, engine_names
from transforms.storage.memo import Memo
from transforms.storage.workspace import Output

Unit = Callable[[], Awaitable[Any]]

CACHES = "prefix-caches.json"  # engine -> tokens looked up and found in its servers' prefix caches, by the last run

_THRESHOLDS = gc.get_threshold()
_UNITS_PER_SLOT = 2  # open units per request slot: enough that a slot never waits for a unit to start


@dataclass(frozen=True)
class AskingStage(Stage):
    """A stage whose plug-ins are coroutines given `ask`.

    Attributes:
        endpoints: base URLs of every engine in use, while the stage runs; none of an engine whose server every
            worker's host starts for itself.
        n_lanes: worker processes or threads that share the engines' concurrency and the budget.
        left: what is left of the budget, where something was asked before the lanes started.
    """

    endpoints: dict[str, list[str]] = field(default_factory=dict)
    n_lanes: int = 1
    left: Budget | None = None

    counts_units: ClassVar[bool] = True

    kind: ClassVar[type[Plugin]]  # of the stage's plug-ins

    @property
    @abstractmethod
    def uses(self) -> list[PluginUse]:
        """The plug-in uses of this stage."""

    @property
    @abstractmethod
    def section(self) -> AskingSection:
        """What the recipe says of the stage's calls: what they may cost, how many may fail."""

    @abstractmethod
    def unit_ids(self, bucket: int) -> int:
        """How many units of work a bucket holds."""

    @abstractmethod
    def work(self, bucket: int, ask: Ask) -> tuple[list[Unit], Callable[[list[Any]], Output]]:
        """A bucket's units of work, and what makes its output of their results in order."""

    @cached_property
    def engines(self) -> dict[str, Engine]:
        """The engines that this stage's plug-ins name."""
        names = engine_names(self.kind, self.uses)
        return {name: build(Engine, self.recipe.engines[name], self.recipe.seed, self.base_dir) for name in names}

    @property
    def models(self) -> dict[str, str]:
        """Engine name -> identity of its model."""
        return {name: engine.answers_as for name, engine in self.engines.items()}

    def check(self, summary: Summary) -> None:
        """End the run where too many requests failed: what was answered is kept, the rest is asked again.

        Raises:
            EngineError: with counts by cause and an example.
        """
        try:
            check_failures(f"stage {self.name}", summary.failures, summary.usage, self.section.max_failed_share)
        except EngineError:
            self.reopen(lambda checkpoint: bool(checkpoint.failures.get("final")))
            raise

    def notes(self, summary: Summary) -> list[str]:
        """What got no answer, and why."""
        return failure_notes(f"stage {self.name}", summary.failures, summary.usage)

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Engines answer for the duration of the block; none is started where no bucket holds any work.

        A server of ours listens on its own host alone: where workers may be elsewhere, they start one on their host
        instead, which all workers of that host share.
        """
        if not self.uses or not any(self.unit_ids(bucket) for bucket in pending):
            yield self
            return
        with ExitStack() as stack:
            endpoints: dict[str, list[str]] = {}
            for name, engine in self.engines.items():
                is_here = engine.server is None or is_local(self.flags)
                endpoints[name] = stack.enter_context(engine.serve()) if is_here else []
            stack.enter_context(counted_caches(self, endpoints))
            yield replace(self, endpoints=endpoints, n_lanes=min(len(pending), self.recipe.beam.workers))

    def units(self, pending: Sequence[int]) -> tuple[int, str]:
        """Units of the pending buckets."""
        return sum(self.unit_ids(bucket) for bucket in pending), "prompts"

    def lanes(self, pending: Sequence[int], workers: int) -> list[tuple[int, ...]]:
        """One lane per worker, so that a worker's window spans all its buckets."""
        return [tuple(pending[lane :: self.n_lanes]) for lane in range(self.n_lanes)]

    def process_lane(self, buckets: Sequence[int], commit: Callable[[int, Output], None]) -> None:
        """Answer all buckets of the lane in one window."""
        with few_collections():
            asyncio.run(self._answer(buckets, commit))

    @property
    def budget(self) -> Budget:
        """What this run may still spend."""
        limits = self.section.budget
        return self.left or Budget(limits.max_calls, limits.max_tokens, limits.max_seconds)

    @asynccontextmanager
    async def calling(self, lanes: int) -> AsyncIterator[Caller]:
        """Open clients of every engine, and who answers through them within the share of one of `lanes`."""
        async with AsyncExitStack() as stack:
            clients = {}
            for name, urls in self.endpoints.items():
                engine = self.engines[name]
                here = urls or stack.enter_context(engine.serve())
                clients[name] = await stack.enter_async_context(engine.connect(here, lanes))
            caller = Caller(clients, self.budget.share(lanes), lanes)
            try:
                yield caller
            except Exception as error:
                caller.stop(error)
                await caller.finish()
                raise

    async def _answer(self, buckets: Sequence[int], commit: Callable[[int, Output], None]) -> None:
        progress = LaneProgress(self.workspace, self.name, buckets[0], sum(map(self.unit_ids, buckets)))
        async with self.calling(self.n_lanes) as caller:
            await window((self._work(bucket, caller, progress, commit) for bucket in buckets), caller)

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
            output.failures = asdict(asker.ledger.failures)
            output.complete = asker.ledger.total().gave_up == 0
            memo.close()
            commit(bucket, output)

        return Work([_start(counted, unit) for unit in units], finish)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}


@contextmanager
def few_collections() -> Iterator[None]:
    """Let the garbage collector leave aside what was there before, and look at the rest less often, during the block.

    Requests make many short-lived objects beside the hundreds of thousands that Beam and Polars keep; with the usual
    thresholds, looking through all of them takes a tenth to a fifth of the stage's processor time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*_THRESHOLDS)
        gc.unfreeze()


async def window(works: Iterable[Work[Any]], caller: Caller) -> None:
    """Do all work in one window as wide as the engines are."""
    slots = sum(client.concurrency for client in caller.clients.values())
    await answer(works, max_units=max(1, _UNITS_PER_SLOT * slots), on_failure=caller.stop)


def _start(counted: Callable[[Unit], Awaitable[Any]], unit: Unit) -> Unit:
    return lambda: counted(unit)


@contextmanager
def counted_caches(stage: AskingStage, endpoints: dict[str, list[str]]) -> Iterator[None]:
    """Leave in the workspace what the servers' prefix caches did during the block, where the servers tell."""
    before = {name: stage.engines[name].prefix_cache(urls) for name, urls in endpoints.items()}
    try:
        yield
    finally:
        found = {}
        for name, urls in endpoints.items():
            earlier, now = before[name], stage.engines[name].prefix_cache(urls) if before[name] else None
            if earlier and now:
                found[name] = asdict(now.since(earlier))
        stage.workspace.write_artefact(stage.name, CACHES, canonical_json(found))


def usage_of(ledger: Ledger) -> dict[str, Any]:
    """Usage by `engine/purpose`, as checkpoints keep it."""
    rows = ledger.rows()
    return {
        f"{row['engine']}/{row['purpose']}": {k: v for k, v in row.items() if k not in ("engine", "purpose")}
        for row in rows
    }

"""Stages that ask engines: these stand for the whole stage, and a lane of buckets shares one continuous window."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Generic

from pipelines.runtime.beam_options import is_local
from pipelines.runtime.failures import check_failures
from pipelines.runtime.job import Job, Lane, Stopwatch
from pipelines.runtime.progress import LaneProgress
from pipelines.runtime.stage import RETRY, AskingFit, PerUnit, Run, S, Unit
from pipelines.runtime.summary import CACHES, FIT_USAGE, Summary
from schemas.errors import EngineError
from schemas.ids import canonical_json
from schemas.recipe import AskingSection, PluginUse
from transforms.engines.base import Engine
from transforms.llm.window import Budget, Caller, Ledger, Work, answer
from transforms.plugins.base import Plugin
from transforms.plugins.build import build, engine_names
from transforms.storage.final_errors import AskingRun, same_server
from transforms.storage.memo import Memo
from transforms.storage.workspace import Checkpoint, Workspace

SERVERS = "servers"  # in a checkpoint's failures: engine -> fingerprint of the server that was asked

_THRESHOLDS = gc.get_threshold()
_UNITS_PER_SLOT = 2  # open units per request slot: enough that a slot never waits for a unit to start


@dataclass(frozen=True)
class Served:
    """Engines that answer for the duration of a stage.

    Attributes:
        budget: what the run may still spend.
        endpoints: base URLs of every engine in use; none of an engine whose server every worker's host starts for
            itself.
        n_lanes: worker processes or threads that share the engines' concurrency and the budget.
        run: what is known of the servers behind the engines.
    """

    budget: Budget
    endpoints: Mapping[str, list[str]] = field(default_factory=dict)
    n_lanes: int = 1
    run: AskingRun = field(default_factory=AskingRun)


def engines_of(run: Run, kind: type[Plugin], askers: Sequence[PluginUse]) -> dict[str, Engine]:
    """The engines that these plug-ins name."""
    names = engine_names(kind, askers)
    uses = {name: run.recipe.engines[name].model_copy(update={"name": name}) for name in names}  # messages name it so
    return {name: build(Engine, use, run.recipe.seed, run.folder) for name, use in uses.items()}


def asking_run(run: Run, engines: Mapping[str, Engine]) -> AskingRun:
    """The run with what is known of the servers now."""
    servers = {name: engine.fingerprint() for name, engine in engines.items()}
    return AskingRun(run.name, servers, run.retries_errors)


def asked_again(job: Job[S], work: PerUnit[S], keys: Sequence[str]) -> Lane:
    """The buckets that are done but for requests turned away for good, where another server may answer these."""
    lacking = {
        bucket: checkpoint
        for bucket, checkpoint in job.run.workspace.checkpoints(job.stage.name).items()
        if checkpoint.failures.get("final") and checkpoint.key == keys[bucket]
    }
    if not lacking:
        return ()
    servers = {} if job.run.retries_errors else asking_run(job.run, work.engines(job.setup)).servers
    return tuple(
        (bucket, keys[bucket])
        for bucket, checkpoint in sorted(lacking.items())
        if job.run.retries_errors
        or any(
            not same_server(checkpoint.failures.get(SERVERS, {}).get(name, ""), now) for name, now in servers.items()
        )
    )


@contextmanager
def serving(job: Job[S], work: PerUnit[S], pending: Sequence[int]) -> Iterator[Served]:
    """Engines answer for the duration of the block; none is started where no bucket holds any work.

    A server of ours listens on its own host alone: where workers may be elsewhere, they start one on their host
    instead, which all workers of that host share.
    """
    run, engines, limits = job.run, work.engines(job.setup), work.section(job.run.recipe).budget
    budget = Budget(limits.max_calls, limits.max_tokens, limits.max_seconds)
    if not any(work.count(job.setup, job.inputs(bucket)) for bucket in pending):
        yield Served(budget)
        return
    with ExitStack() as stack:
        endpoints: dict[str, list[str]] = {}
        for name, engine in engines.items():
            is_here = engine.server is None or is_local(run.flags)
            endpoints[name] = stack.enter_context(engine.serve()) if is_here else []
        stack.enter_context(_counted_caches(run.workspace, job.stage.name, engines, endpoints))
        yield Served(budget, endpoints, min(len(pending), run.recipe.beam.workers), asking_run(run, engines))


@asynccontextmanager
async def _calling(engines: Mapping[str, Engine], served: Served, lanes: int) -> AsyncIterator[Caller]:
    """Open clients of every engine, and who answers through them within the share of one of `lanes`."""
    async with AsyncExitStack() as stack:
        clients = {}
        for name, urls in served.endpoints.items():
            engine = engines[name]
            here = urls or stack.enter_context(engine.serve())
            clients[name] = await stack.enter_async_context(engine.connect(here, lanes))
        caller = Caller(clients, served.budget.share(lanes), lanes, run=served.run)
        try:
            yield caller
        except Exception as error:
            caller.stop(error)
            await caller.finish()
            raise


@dataclass(frozen=True)
class AskingLane(Generic[S]):
    """What Beam does with a lane: all its buckets in one window."""

    job: Job[S]
    work: PerUnit[S]
    served: Served

    def __call__(self, lane: Lane) -> str:
        """Answer all units and commit each bucket as soon as its own are done."""
        with _rarer_gc():
            asyncio.run(self._answer(lane))
        return f"{self.job.stage.name}: {len(lane)} buckets"

    async def _answer(self, lane: Lane) -> None:
        job, work = self.job, self.work
        units = sum(work.count(job.setup, job.inputs(bucket)) for bucket, _ in lane)
        progress = LaneProgress(job.run.workspace, job.stage.name, lane[0][0], units)
        watch = Stopwatch()
        async with _calling(work.engines(job.setup), self.served, self.served.n_lanes) as caller:
            await _in_window((self._bucket(bucket, key, caller, progress, watch) for bucket, key in lane), caller)

    def _bucket(self, bucket: int, key: str, caller: Caller, progress: LaneProgress, watch: Stopwatch) -> Work[Any]:
        """A bucket's units, each counted when it ends, and what stores their results."""
        job, work, inputs = self.job, self.work, self.job.inputs(bucket)
        memo = bucket_memo(job.run.workspace, bucket)
        asker = caller.asker(memo)

        async def counted(unit: Unit) -> Any:
            result = await unit()
            progress.advance()
            return result

        def finish(results: list[Any]) -> None:
            output = work.output(job.setup, inputs, results)
            output.usage = usage_of(asker.ledger)
            output.failures = asdict(asker.ledger.failures) | {SERVERS: dict(self.served.run.servers)}
            is_settled = not (asker.ledger.failures.final and memo.errors.is_new(self.served.run.run))
            output.complete = asker.ledger.total().gave_up == 0 and is_settled
            memo.close()
            job.commit(bucket, key, output, watch.lap())

        return Work([partial(counted, unit) for unit in work.units(job.setup, inputs, job.artefacts, asker)], finish)


def answer_on_driver(job: Job[S], work: PerUnit[S], step: AskingFit[S], served: Served) -> Served:
    """Ask what a fit wants to know of all buckets, and keep what is made of it.

    Returns:
        The same engines with what is left of the budget.

    Raises:
        EngineError: too many requests got no answer.
    """
    if not served.endpoints:
        return served
    if not step.wanted(job.setup):
        job.run.workspace.write_artefact(job.stage.name, FIT_USAGE, canonical_json({}))
        return served
    started, ledger = time.monotonic(), Ledger()
    try:
        results = asyncio.run(_fit_results(job, work, step, served, ledger))
    finally:
        job.run.workspace.write_artefact(job.stage.name, FIT_USAGE, canonical_json(usage_of(ledger)))
    most = work.section(job.run.recipe).max_failed_share
    check_failures(f"stage {job.stage.name}, {step.purpose}", ledger.failures, usage_of(ledger), most)
    job.artefacts[step.name] = step.make(job.setup, results)
    return replace(served, budget=served.budget.less(ledger.spent(), time.monotonic() - started))


async def _fit_results(job: Job[S], work: PerUnit[S], step: AskingFit[S], served: Served, ledger: Ledger) -> list[Any]:
    """The results of all units of all buckets, in order; what was asked is put down in `ledger`."""
    buckets = job.run.workspace.buckets
    by_bucket: list[list[Any]] = [[] for _ in buckets]

    def asked(bucket: int, caller: Caller) -> Work[Any]:
        memo = bucket_memo(job.run.workspace, bucket)

        def finish(results: list[Any]) -> None:
            memo.close()
            by_bucket[bucket] = results

        return Work(step.units(job.setup, job.inputs(bucket), caller.asker(memo)), finish)

    async with _calling(work.engines(job.setup), served, 1) as caller:
        caller.ledger = ledger
        await _in_window((asked(bucket, caller) for bucket in buckets), caller)
    return [result for results in by_bucket for result in results]


def check_answers(stage: str, section: AskingSection, workspace: Workspace, summary: Summary) -> None:
    """End the run where too many requests failed: what was answered is kept, the rest is asked again.

    Raises:
        EngineError: with counts by cause and an example.
    """
    try:
        check_failures(f"stage {stage}", summary.failures, summary.usage, section.max_failed_share)
    except EngineError:
        reopen(workspace, stage, lambda checkpoint: bool(checkpoint.failures.get("final")))
        raise


def reopen(workspace: Workspace, stage: str, is_lacking: Callable[[Checkpoint], bool]) -> None:
    """Have the next run do again the buckets that lack answers: what did not answer may do so by then."""
    for bucket, checkpoint in workspace.checkpoints(stage).items():
        if is_lacking(checkpoint) and not checkpoint.key.startswith(RETRY):
            workspace.write_checkpoint(stage, bucket, replace(checkpoint, key=f"{RETRY}{checkpoint.key}"))


def bucket_memo(workspace: Workspace, bucket: int) -> Memo:
    """The replies that a bucket's requests have got so far."""
    return Memo(workspace.bucket_dir("generations", bucket)).load()


def usage_of(ledger: Ledger) -> dict[str, Any]:
    """Usage by `engine/purpose`, as checkpoints keep it."""
    rows = ledger.rows()
    return {
        f"{row['engine']}/{row['purpose']}": {k: v for k, v in row.items() if k not in ("engine", "purpose")}
        for row in rows
    }


async def _in_window(works: Iterable[Work[Any]], caller: Caller) -> None:
    """Do all work in one window as wide as the engines are."""
    slots = sum(client.concurrency for client in caller.clients.values())
    await answer(works, max_units=max(1, _UNITS_PER_SLOT * slots), on_failure=caller.stop)


@contextmanager
def _rarer_gc() -> Iterator[None]:
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


@contextmanager
def _counted_caches(
    workspace: Workspace, stage: str, engines: Mapping[str, Engine], endpoints: Mapping[str, list[str]]
) -> Iterator[None]:
    """Leave in the workspace what the servers' prefix caches did during the block, where the servers tell."""
    before = {name: engines[name].prefix_cache(urls) for name, urls in endpoints.items()}
    try:
        yield
    finally:
        tokens = {}
        for name, urls in endpoints.items():
            earlier, now = before[name], engines[name].prefix_cache(urls) if before[name] else None
            if earlier and now:
                tokens[name] = asdict(now.since(earlier))
        workspace.write_artefact(stage, CACHES, canonical_json(tokens))

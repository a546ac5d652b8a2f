"""What a run will cost, found by walking its first stages with made-up replies in a throw-away workspace."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.dry_run_replies import invented_reply
from pipelines.runtime.job import prepared
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.stage import PAIR_STAGES, PerUnit, Run, S, Stage, Unit
from pipelines.stages.clean import CLEAN
from pipelines.stages.evolve import EVOLVE
from pipelines.stages.generate import GENERATE
from pipelines.stages.ingest import INGEST
from pipelines.stages.judge import JUDGE
from pipelines.stages.screen import SCREEN
from schemas.recipe_file import RecipeFile
from transforms.llm.reasoning import spoken
from transforms.llm.request import Reply, Request
from transforms.llm.usage import TOKENIZE
from transforms.sources.count import count_rows
from transforms.storage.memo import Memo
from transforms.storage.workspace import Workspace

SAMPLE_ROWS = 2_000


@dataclass
class Cost:
    """What one plug-in use will ask. `tokens_out` is the most the requests allow."""

    stage: str
    who: str
    units: int = 0
    calls: int = 0
    answered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass
class Plan:
    """The cost of a run before it is spent."""

    source_rows: int
    pairs: int
    expected_pairs: int
    costs: list[Cost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan(file: RecipeFile, root: str, limit: int | None, flags: tuple[str, ...]) -> Plan:
    """Count the calls, tokens and pairs of a run without spending any.

    The replies that are made up let every step go on as far as it can, so that what depends on an engine's opinion or
    talent (verified contrasts, parsable criteria) is counted as if it always succeeded: at least the pairs and
    judgements of a run. What is tried again after a failure (another kind of `corrupt` by LLM) is counted once.

    Up to `SAMPLE_ROWS` rows of every source are ingested into a throw-away workspace and the generators and
    judges are walked with made-up replies, except that requests already answered in the workspace at `root`
    get their real replies; counts are scaled up to all rows.
    """
    recipe = file.recipe
    rows = sum(count_rows(source, file.base_dir, limit) for source in recipe.sources)
    with tempfile.TemporaryDirectory(prefix="prefine-plan-") as scratch:
        workspace = Workspace.create(scratch, recipe.buckets)
        sampled = min(limit or SAMPLE_ROWS, SAMPLE_ROWS)
        run = Run(workspace, recipe, file.base_dir, sampled, flags)
        ingested = run_stage(INGEST, run, quiet=True).summary
        seen = sum(count_rows(source, file.base_dir, sampled) for source in recipe.sources)
        scale = rows / seen if seen else 1.0
        costs: dict[tuple[str, str], Cost] = {}
        _walk(EVOLVE, run, root, costs)
        run_stage(SCREEN, run, quiet=True)
        _walk(GENERATE, run, root, costs)
        run_stage(CLEAN, run, quiet=True)
        _walk(JUDGE, run, root, costs)
        now = ingested.counts.get("pairs", 0)
        expected = sum(workspace.read("pairs", b, PAIR_STAGES, []).height for b in workspace.buckets)
    planned = Plan(rows, round(now * scale), round(expected * scale), [_scaled(c, scale) for c in costs.values()])
    planned.notes.append(
        "Plug-ins that ask in several steps are counted as if every reply were usable: an upper estimate."
    )
    if scale > 1:
        planned.notes.append(f"Counted on {seen:,} rows and scaled by {scale:.1f}.")
    if not planned.costs:
        planned.notes.append("No engine is asked: the run costs no calls.")
    return planned


def _walk(stage: Stage[S], run: Run, root: str, costs: dict[tuple[str, str], Cost]) -> None:
    """Run a stage's units with made-up replies and commit what they give, for the next stage to walk.

    A request met twice is asked once, as the memo has it.
    """
    work, (job, _) = stage.work, prepared(stage, run)
    assert isinstance(work, PerUnit)
    for bucket in run.workspace.buckets:
        memo = Memo(Workspace(root, run.workspace.n_buckets).bucket_dir("generations", bucket))
        made: dict[str, Reply] = {}

        async def ask(request: Request, memo: Memo = memo, made: dict[str, Reply] = made) -> Reply:
            if request.path == TOKENIZE:  # costs nothing
                return invented_reply(request)
            cost = costs.setdefault((stage.name, request.purpose), Cost(stage.name, request.purpose))
            known = memo.get(request.request_id)
            if known is not None:
                cost.answered += 1
                return spoken(known)
            if request.request_id in made:
                return made[request.request_id]
            reply = made[request.request_id] = invented_reply(request)
            cost.calls += 1
            cost.tokens_in += reply.tokens_in
            cost.tokens_out += reply.tokens_out
            return reply

        inputs = job.inputs(bucket)
        units = work.units(job.setup, inputs, {}, ask)
        results = asyncio.run(_all(units))
        for cost in costs.values():
            cost.units += len(units) if cost.stage == stage.name else 0
        run.workspace.commit(stage.name, bucket, "plan", work.output(job.setup, inputs, results), 0.0)


async def _all(units: list[Unit]) -> list[Any]:
    return [await unit() for unit in units]


def _scaled(cost: Cost, scale: float) -> Cost:
    numbers = {k: round(getattr(cost, k) * scale) for k in ("units", "calls", "tokens_in", "tokens_out")}
    return Cost(cost.stage, cost.who, answered=cost.answered, **numbers)

"""Commands that do work: run, stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.runtime.order import RUN_ORDER
from prefine.cli.options import WORK, AsJson, Budget, Limit, Quiet, RecipePath, RetryErrors, WorkspaceRoot
from prefine.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from pipelines.runtime.dry_run import Plan
    from pipelines.runtime.run import RunInterrupted, RunResult

_EXTRA = {"allow_extra_args": True}
_INTERRUPTED = 130  # as shells say it of a program that ctrl-C ended


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(context_settings=_EXTRA, rich_help_panel=WORK)(run)
    app.command(context_settings=_EXTRA, rich_help_panel=WORK)(stage)


def run(
    context: typer.Context,
    recipe: RecipePath,
    workspace: WorkspaceRoot,
    until: Annotated[str | None, typer.Option(help=f"last stage to run: {', '.join(RUN_ORDER)}")] = None,
    limit: Limit = None,
    budget: Budget = None,
    retry_errors: RetryErrors = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what the run will cost, and ask no model")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe from its sources to a published version. Flags after `--` go to Beam."""
    from pipelines.runtime.run import dry_run as plan_run
    from pipelines.runtime.run import run_recipe

    if dry_run:
        _print_plan(plan_run(recipe, workspace, limit, context.args), as_json)
        return
    silent = quiet or as_json
    result = _finished(lambda: run_recipe(recipe, workspace, until, limit, context.args, silent, budget, retry_errors))
    _print_result(result, as_json)


def stage(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=", ".join(RUN_ORDER))],
    recipe: RecipePath,
    workspace: WorkspaceRoot,
    limit: Limit = None,
    budget: Budget = None,
    retry_errors: RetryErrors = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run one stage of a recipe; the stages before it must have run."""
    from pipelines.runtime.run import run_stages

    if name not in RUN_ORDER:
        raise typer.BadParameter(f"no stage {name!r}; known: {', '.join(RUN_ORDER)}", param_hint="NAME")
    silent, words = quiet or as_json, context.args
    result = _finished(lambda: run_stages(recipe, workspace, [name], limit, words, silent, budget, retry_errors))
    _print_result(result, as_json)


def _finished(work: Callable[[], RunResult]) -> RunResult:
    """What the work returns; if ctrl-C ends it, say what stands and leave."""
    from pipelines.runtime.run import RunInterrupted

    try:
        return work()
    except RunInterrupted as stop:
        _say_what_stands(stop)
        # Threads of Beam and of the engines' clients would go on until they have their answers. Leaving them at any
        # moment is safe: parts and checkpoints appear whole, and an answer is in the journal before it is used.
        os._exit(_INTERRUPTED)


def _say_what_stands(stop: RunInterrupted) -> None:
    done = ", ".join(summary.stage for summary in stop.result.stages)
    for line in (
        f"\nstopped in stage {stop.stage}. What stands in {stop.result.workspace}:",
        f"  finished stages: {done or 'none'}",
        f"  of {stop.stage}: every finished part, and every answer that a model has given (it is not asked for again)",
        "go on with the same command",
    ):
        say(line, sys.stderr)


def _print_plan(planned: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(planned))
        return
    rows = [(c.stage, c.who, c.units, c.calls, c.answered, c.tokens_in, c.tokens_out) for c in planned.costs]
    columns = ("stage", "who", "units", "calls", "known", "tokens in", "tokens out, at most")
    print_table("What the run will cost (known: answers that the memo holds already)", columns, rows)
    say(f"source rows {planned.source_rows:,}, pairs now {planned.pairs:,}, pairs expected {planned.expected_pairs:,}")
    for note in planned.notes:
        say(note)


def _print_result(result: RunResult, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(result))
        return
    seconds = result.shown_seconds()
    rows: list[tuple[Any, ...]] = [
        (s.stage, s.rows_in, s.rows_out, sum(s.rejects.values()), _total(s.usage, "calls"), seconds.pop(s.stage))
        for s in result.stages
    ]
    rows += [(name, None, None, None, None, shown) for name, shown in seconds.items()]
    print_table("Stages", ("stage", "rows in", "rows out", "rejects", "calls", "seconds"), rows)
    for line in result.lines():
        say(line)


def _total(usage: dict[str, dict[str, float]], name: str) -> int:
    return int(sum(numbers.get(name, 0) for numbers in usage.values()))

"""Commands that do work: run, stage."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from pipelines.runtime.dry_run import Plan
from pipelines.runtime.order import RUN_ORDER, STAGES
from pipelines.runtime.run import RunResult, run_recipe, run_stages
from pipelines.runtime.run import dry_run as plan_run
from prefine.cli.options import AsJson, Budget, Limit, Quiet, RecipePath, RetryErrors, WorkspaceRoot
from prefine.cli.output import print_json, print_table, say

_EXTRA = {"allow_extra_args": True}


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(context_settings=_EXTRA)(run)
    app.command(context_settings=_EXTRA)(stage)


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
    if dry_run:
        _print_plan(plan_run(recipe, workspace, limit, context.args), as_json)
        return
    result = run_recipe(recipe, workspace, until, limit, context.args, quiet or as_json, budget, retry_errors)
    _print_result(result, as_json)


def stage(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=", ".join(STAGES))],
    recipe: RecipePath,
    workspace: WorkspaceRoot,
    limit: Limit = None,
    budget: Budget = None,
    retry_errors: RetryErrors = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run one stage of a recipe; the stages before it must have run."""
    if name not in STAGES:
        raise typer.BadParameter(f"no stage {name!r}; known: {', '.join(STAGES)}", param_hint="NAME")
    result = run_stages(recipe, workspace, [name], limit, context.args, quiet or as_json, budget, retry_errors)
    _print_result(result, as_json)


def _print_plan(planned: Plan, as_json: bool) -> None:
    if as_json:
        print_json(asdict(planned))
        return
    rows = [(c.stage, c.who, c.units, c.calls, c.answered, c.tokens_in, c.tokens_out) for c in planned.costs]
    columns = ("stage", "who", "units", "calls to make", "already answered", "tokens in", "tokens out, at most")
    print_table("What the run will cost", columns, rows)
    say(f"source rows {planned.source_rows:,}, pairs now {planned.pairs:,}, pairs expected {planned.expected_pairs:,}")
    for note in planned.notes:
        say(note)


def _print_result(result: RunResult, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
        return
    rows: list[tuple[Any, ...]] = [
        (s.stage, s.rows_in, s.rows_out, sum(s.rejects.values()), _total(s.usage, "calls"), s.seconds)
        for s in result.stages
    ]
    print_table("Stages", ("stage", "rows in", "rows out", "rejects", "calls", "seconds"), rows)
    for line in result.lines():
        say(line)


def _total(usage: dict[str, dict[str, float]], name: str) -> int:
    return int(sum(numbers.get(name, 0) for numbers in usage.values()))

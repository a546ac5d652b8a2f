"""Commands about versions: diff, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import AsJson, WorkspaceRoot
from cli.output import console, print_json, print_table
from pipelines import versions
from transforms.publish.diff import render

_Version = Annotated[str, typer.Argument(help="NAME@V, e.g. demo@v0001")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(diff)
    app.command()(verify)


def diff(
    old: _Version,
    new: _Version,
    workspace: WorkspaceRoot,
    slice_by: Annotated[str, typer.Option(help="column to summarise by: kind, language, origin")] = "kind",
    rows: Annotated[int, typer.Option("--rows", min=0, help="how many changed rows to show")] = 20,
    as_json: AsJson = False,
) -> None:
    """What changed between two versions, row by row, with the reason."""
    found = versions.compare(workspace, old, new, slice_by)
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(render(found, rows))


def verify(
    version: Annotated[str, typer.Argument(help="NAME or NAME@V")],
    workspace: WorkspaceRoot,
    benchmarks: Annotated[list[str] | None, typer.Option(help="prompt sets that must not overlap with it")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a version against its manifest and the laws of every version; exit 1 where one is broken."""
    checks = versions.check(workspace, version, benchmarks or [])
    if as_json:
        print_json([check.model_dump() for check in checks])
    else:
        rows = [(check.name, "ok" if check.ok else "BROKEN", check.detail) for check in checks]
        print_table(f"verify {version}", ("check", "state", "detail"), rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)

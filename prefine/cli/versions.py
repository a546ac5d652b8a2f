"""Commands about versions: diff, verify, audit, catalog, compact, prune, hub-push, hub-pull."""

from __future__ import annotations

from typing import Annotated

import typer

from prefine.cli.options import LOOK, VERSIONS, AsJson, Wide, WorkspaceRoot
from prefine.cli.output import console, print_json, print_table, say

_Version = Annotated[str, typer.Argument(help="NAME@V, e.g. demo@v0001")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(rich_help_panel=LOOK)(diff)
    for command in (verify, audit, prune, catalog, compact):
        app.command(rich_help_panel=VERSIONS)(command)
    app.command("hub-push", rich_help_panel=VERSIONS)(hub_push)
    app.command("hub-pull", rich_help_panel=VERSIONS)(hub_pull)


def diff(
    old: _Version,
    new: _Version,
    workspace: WorkspaceRoot,
    slice_by: Annotated[str, typer.Option(help="column to summarise by: kind, language, origin, ...")] = "kind",
    rows: Annotated[int, typer.Option("--rows", min=0, help="how many changed rows to show")] = 20,
    as_json: AsJson = False,
    wide: Wide = False,
) -> None:
    """What changed between two versions, row by row, with the reason."""
    from pipelines.inspect.versions import compare
    from transforms.publish.diff import render

    difference = compare(workspace, old, new, slice_by, rows)
    if as_json:
        print_json(difference.to_dict())
    else:
        console(wide).print(render(difference, rows, wide))


def verify(
    version: Annotated[str, typer.Argument(help="NAME or NAME@V")],
    workspace: WorkspaceRoot,
    benchmarks: Annotated[
        list[str] | None, typer.Option(help="prompt sets that must not overlap with it; default: the recipe's own")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a version against its manifest and the rules of every version; exit 1 if one is broken."""
    from pipelines.inspect.versions import check as checked

    checks = checked(workspace, version, benchmarks or [])
    if as_json:
        print_json([check.model_dump() for check in checks])
    else:
        rows = [(check.name, "ok" if check.ok else "BROKEN", check.detail) for check in checks]
        print_table(f"verify {version}", ("check", "state", "detail"), rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def audit(
    version: Annotated[str, typer.Argument(help="NAME or NAME@V")], workspace: WorkspaceRoot, as_json: AsJson = False
) -> None:
    """Measure a version's accuracy with today's answers; exit 1 if it is significantly worse than published."""
    from pipelines.inspect.maintenance import audit as audited
    from transforms.stats.certificate_text import notes_of

    audits = audited(workspace, version)
    if as_json:
        print_json(audits)
    else:
        rows = [
            (when, *(audits[when][name] for name in ("accuracy", "low", "high", "audited")))
            for when in ("published", "now")
            if audits[when]
        ]
        print_table(f"audit {audits['version']}", ("when", "accuracy", "low", "high", "audited pairs"), rows)
        for note in notes_of(audits["now"] or {}):
            say(note)
    if audits["worse"]:
        raise typer.Exit(1)


def catalog(workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """Rebuild catalog.duckdb: views over every table and version, for any DuckDB client."""
    from pipelines.inspect.sql import rebuild_catalog

    names = rebuild_catalog(workspace)
    if as_json:
        print_json(names)
    else:
        print_table("catalog.duckdb", ("view or table",), [(name,) for name in names])


def compact(workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """Turn the memo's journals into Parquet; run it while no run is generating or judging."""
    from pipelines.inspect.maintenance import compact as compacted

    known = compacted(workspace)
    if as_json:
        print_json(known)
    else:
        say(", ".join(f"{n:,} {table}" for table, n in known.items()))


def prune(
    dataset: Annotated[str, typer.Argument(help="NAME")],
    workspace: WorkspaceRoot,
    keep: Annotated[int, typer.Option(min=1, help="how many of the latest versions stay")],
    pin: Annotated[list[int] | None, typer.Option(help="a version to keep in any case")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be removed, and remove nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old versions of a dataset."""
    from pipelines.inspect.versions import prune_versions

    gone = prune_versions(workspace, dataset, keep, pin or [], dry_run)
    if as_json:
        print_json({"dataset": dataset, "removed": [f"v{version:04d}" for version in gone], "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    say(f"{verb}: {', '.join(f'v{version:04d}' for version in gone) or 'nothing'}")


def hub_push(
    version: Annotated[str, typer.Argument(help="NAME or NAME@V")],
    workspace: WorkspaceRoot,
    repository: Annotated[str, typer.Option(help="ORGANISATION/NAME on the Hub")],
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Upload a version to the Hub and tag it; the token comes from HF_TOKEN."""
    from pipelines.inspect.versions import to_hub

    say(to_hub(workspace, version, repository, private=not public))


def hub_pull(
    repository: Annotated[str, typer.Argument(help="ORGANISATION/NAME on the Hub")],
    tag: Annotated[str, typer.Argument(help="e.g. v0001")],
    workspace: WorkspaceRoot,
) -> None:
    """Download a version from the Hub, check every byte, and put it among the datasets."""
    from pipelines.inspect.versions import from_hub

    say(from_hub(workspace, repository, tag))

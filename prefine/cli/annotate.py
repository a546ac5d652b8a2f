"""Commands for humans: annotate (in the terminal), annotations (what they show), labels (how many have come)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefine.cli.options import LOOK, WORK, AsJson, RecipePath, Wide, WorkspaceRoot
from prefine.cli.output import console, print_json, say


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(rich_help_panel=WORK)(annotate)
    app.command(rich_help_panel=WORK)(labels)
    app.command("annotations", rich_help_panel=LOOK)(about_annotations)


def annotate(
    workspace: WorkspaceRoot,
    annotator: Annotated[str, typer.Option(help="your name")],
    out: Annotated[Path, typer.Option(help="file to append to; list it under annotate.files of the recipe")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="at most this many pairs")] = 10,
) -> None:
    """Answer the first pairs of the queue here and now."""
    import orjson

    from pipelines.inspect.annotations import open_tasks
    from transforms.annotate.terminal import annotate as ask_humans

    answered = ask_humans(open_tasks(workspace, annotator, out, rows), annotator, input, console())
    with out.open("ab") as file:
        for row in answered:
            file.write(orjson.dumps(row) + b"\n")
    say(f"{len(answered)} answers appended to {out}")


def about_annotations(
    workspace: WorkspaceRoot,
    out: Annotated[Path | None, typer.Option(help="write every valid answer to this file, as JSON lines")] = None,
    as_json: AsJson = False,
    wide: Wide = False,
) -> None:
    """How well people agree, how reliable each is, and what more labels would gain; or the answers as a file.

    The file is what `annotate.files` of a recipe reads.
    """
    from pipelines.inspect.annotations import annotations_jsonl, people
    from transforms.report.people_tables import render
    from transforms.storage.workspace import Workspace

    if out is not None:
        data = annotations_jsonl(workspace)
        out.write_bytes(data)
        say(f"{len(data.splitlines())} annotations written to {out}")
        return
    statistics = people(Workspace.open(workspace))
    if as_json:
        print_json(None if statistics is None else statistics.as_dict())
    elif statistics is None:
        say("nobody has answered yet; `prefine queue` shows what is asked")
    else:
        console(wide).print(render(statistics))


def labels(recipe: RecipePath, workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """Fetch new answers and count how many of those asked for have come."""
    from dataclasses import asdict

    from pipelines.inspect.labels import label_status

    counts = asdict(label_status(recipe, workspace))
    if as_json:
        print_json(counts)
    else:
        say(", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))

"""Commands for humans: annotate (in the terminal), annotations (what they show), labels (how many have come)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from pipelines.inspect.annotations import annotations_jsonl, open_tasks, people
from pipelines.inspect.labels import label_status
from prefine.cli.options import AsJson, RecipePath, WorkspaceRoot
from prefine.cli.output import console, print_json, say
from transforms.annotate.terminal import annotate as ask_humans
from transforms.report.people_tables import render
from transforms.storage.workspace import Workspace


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(annotate)
    app.command("annotations")(about_annotations)
    app.command()(labels)


def annotate(
    workspace: WorkspaceRoot,
    annotator: Annotated[str, typer.Option(help="your name")],
    out: Annotated[Path, typer.Option(help="file to append to; list it under annotate.files of the recipe")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="at most this many pairs")] = 10,
) -> None:
    """Answer the first pairs of the queue here and now."""
    answered = ask_humans(open_tasks(workspace, annotator, out, rows), annotator, input, console())
    with out.open("ab") as file:
        for row in answered:
            file.write(orjson.dumps(row) + b"\n")
    say(f"{len(answered)} answers appended to {out}")


def about_annotations(
    workspace: WorkspaceRoot,
    out: Annotated[Path | None, typer.Option(help="write every valid answer to this file, as JSON lines")] = None,
    as_json: AsJson = False,
) -> None:
    """How well people agree, how reliable each is, and what more labels would gain; or the answers as a file.

    The file is what `annotate.files` of a recipe reads.
    """
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
        console().print(render(statistics))


def labels(recipe: RecipePath, workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """Fetch new answers and count how many of those asked for have come."""
    counts = asdict(label_status(recipe, workspace))
    if as_json:
        print_json(counts)
    else:
        say(", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))

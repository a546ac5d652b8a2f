"""Commands for humans: annotate (in the terminal), annotations (as a file)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from cli.options import WorkspaceRoot
from cli.output import console
from pipelines.humans import annotations_jsonl, open_tasks
from transforms.annotate.terminal import annotate as ask_humans


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(annotate)
    app.command("annotations")(annotations_file)


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
    print(f"{len(answered)} answers appended to {out}")


def annotations_file(
    workspace: WorkspaceRoot, out: Annotated[Path, typer.Option(help="annotations.jsonl to write")]
) -> None:
    """Write every valid annotation as JSON lines, which `annotate.files` of a recipe reads."""
    data = annotations_jsonl(workspace)
    out.write_bytes(data)
    print(f"{len(data.splitlines())} annotations written to {out}")

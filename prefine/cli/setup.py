"""Commands that prepare: init, doctor."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from pipelines.inspect.doctor import examine
from pipelines.runtime.run import checked_recipe
from prefine.cli.options import AsJson
from prefine.cli.output import print_json, print_table, say
from schemas.errors import UsageError
from transforms.storage.workspace import Workspace

_FILES = ("recipe.yaml", "prompts.jsonl")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(init)
    app.command()(doctor)


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to put recipe and workspace")]) -> None:
    """Make a workspace with an annotated recipe and a few prompts to start from."""
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        raise UsageError(f"{folder / there[0]} exists already; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (folder / name).write_bytes(files("prefine.cli").joinpath("templates", name).read_bytes())
    recipe = checked_recipe(folder / "recipe.yaml").recipe
    Workspace.create(str(folder), recipe.buckets)
    say(f"recipe:  {folder / 'recipe.yaml'}\nprompts: {folder / 'prompts.jsonl'}")
    say(f"next:    prefine run {folder / 'recipe.yaml'} --workspace {folder}")


def doctor(as_json: AsJson = False) -> None:
    """What is installed and reachable, and what each missing piece costs."""
    findings = examine()
    if as_json:
        print_json([finding.__dict__ for finding in findings])
        return
    rows = [(f.area, f.what, "ok" if f.ok else "missing", f.detail, "" if f.ok else f.cost) for f in findings]
    print_table("prefine doctor", ("area", "what", "state", "detail", "without it"), rows)

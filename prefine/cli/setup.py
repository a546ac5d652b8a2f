"""Commands that prepare: init, doctor, schema."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer

from prefine.cli.options import START, AsJson
from prefine.cli.output import print_json, print_table, say
from schemas.errors import UsageError

Template = Literal["prompts", "pairs", "people", "agents"]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (init, doctor, schema):
        app.command(rich_help_panel=START)(command)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to put recipe, data and workspace")],
    template: Annotated[
        Template,
        typer.Option(
            help="prompts: a model writes and judges pairs; pairs: curate pairs that are there; "
            "people: ask people about pairs; agents: pairs from logs of agents"
        ),
    ] = "prompts",
) -> None:
    """Make a workspace with an annotated recipe and a few rows to start from."""
    from pipelines.runtime.run import checked_recipe
    from transforms.storage.workspace import Workspace

    content = {file.name: file.read_bytes() for file in files("prefine.cli").joinpath("templates", template).iterdir()}
    there = sorted(name for name in content if (folder / name).exists())
    if there:
        raise UsageError(f"{folder / there[0]} exists already; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    recipe = checked_recipe(folder / "recipe.yaml").recipe
    Workspace.create(str(folder), recipe.buckets)
    say(f"recipe:  {folder / 'recipe.yaml'}")
    for name in sorted(content.keys() - {"recipe.yaml"}):
        say(f"data:    {folder / name}")
    say(f"next:    prefine run {folder / 'recipe.yaml'} --workspace {folder}")


def doctor(as_json: AsJson = False) -> None:
    """What is installed and reachable, and what each missing piece costs."""
    from pipelines.inspect.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.__dict__ for finding in findings])
        return
    rows = [(f.area, f.what, "ok" if f.ok else "missing", f.detail, "" if f.ok else f.cost) for f in findings]
    print_table("prefine doctor", ("area", "what", "state", "detail", "without it"), rows)


def schema() -> None:
    """The JSON schema of recipes, with every plug-in's settings, for editors that complete and check YAML.

    Save it, and begin a recipe with: # yaml-language-server: $schema=recipe.schema.json
    """
    from pipelines.inspect.recipe_schema import recipe_schema

    print_json(recipe_schema())

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="the recipe, a YAML file")]
WorkspaceRoot = Annotated[
    str, typer.Option("--workspace", "-w", help="folder or URL of the workspace", envvar="PREFINE_WORKSPACE")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="read at most this many rows of every source")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on standard error")]
Budget = Annotated[
    int | None,
    typer.Option("--budget", min=1, help="answers to ask people for in total; overrides the recipe's budget"),
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="ask again what servers turned away for good, though nothing changed")
]

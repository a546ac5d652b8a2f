"""Options that several commands share, and the groups that `prefine --help` shows commands in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UsageError

START, WORK, LOOK, VERSIONS = "Start", "Work", "Look", "Versions"


def _named(root: str) -> str:
    """The workspace's root, if it names one.

    Raises:
        UsageError: it is empty, which would be the root of the disk.
    """
    if not root.strip():
        raise UsageError("--workspace is empty: name a folder or a URL, such as -w my-workspace")
    return root


RecipePath = Annotated[Path, typer.Argument(help="the recipe, a YAML file")]
WorkspaceRoot = Annotated[
    str,
    typer.Option(
        "--workspace", "-w", help="folder or URL of the workspace", envvar="PREFINE_WORKSPACE", callback=_named
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Wide = Annotated[bool, typer.Option("--wide", help="all columns and whole ids, however wide the table becomes")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="read at most this many rows of every source")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on standard error")]
Budget = Annotated[
    int | None,
    typer.Option("--budget", min=1, help="answers to ask people for in total; overrides the recipe's budget"),
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="ask again what servers turned away for good, though nothing changed")
]

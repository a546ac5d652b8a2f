"""Progress across processes: workers leave small files, whoever started the stage reads and shows them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from schemas.ids import canonical_json
from transforms.storage.files import read_json, write_atomic
from transforms.storage.workspace import Workspace

_PERIOD = 0.5
_PLAIN_PERIOD = 10.0


@dataclass
class LaneProgress:
    """A worker's count of units done, left in the workspace at most twice a second."""

    workspace: Workspace
    stage: str
    lane: int
    total: int
    done: int = 0
    _written: float = field(default=0.0, repr=False)

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        self.done += units
        now = time.monotonic()
        if now - self._written >= _PERIOD or self.done >= self.total:
            self._written = now
            path = self.workspace.path("progress", self.stage, f"{self.lane}-{os.getpid()}.json")
            # Called on the event loop that carries the requests: waiting for the disk would stall them all.
            value = canonical_json({"done": self.done, "total": self.total})
            write_atomic(self.workspace.fs, path, value, durable=False)


def read_progress(workspace: Workspace, stage: str) -> tuple[int, int]:
    """Units done and units in all, over the stage's lanes."""
    folder = workspace.path("progress", stage)
    done = total = 0
    for path in workspace.fs.glob(f"{folder}/*.json"):
        value = read_json(workspace.fs, path)
        if value:
            done, total = done + value["done"], total + value["total"]
    return done, total


def clear_progress(workspace: Workspace, stage: str) -> None:
    """Forget what earlier runs of the stage left."""
    folder = workspace.path("progress", stage)
    if workspace.fs.exists(folder):
        workspace.fs.rm(folder, recursive=True)


@contextmanager
def shown(workspace: Workspace, stage: str, units: int, what: str, quiet: bool) -> Iterator[None]:
    """Show a stage's progress on standard error until the block ends.

    A bar with ETA on a terminal, a line every ten seconds elsewhere.

    Args:
        units: what the bar counts to at least; workers may know of more.
        what: the unit's name.
    """
    clear_progress(workspace, stage)
    if quiet:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(workspace, stage, units, what, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        clear_progress(workspace, stage)


def _show(workspace: Workspace, stage: str, units: int, what: str, stop: threading.Event) -> None:
    if sys.stderr.isatty():
        _bar(workspace, stage, units, what, stop)
    else:
        _lines(workspace, stage, units, what, stop)


def _bar(workspace: Workspace, stage: str, units: int, what: str, stop: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TextColumn(what)]
    columns += [TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(stage, total=units)
        while not stop.wait(_PERIOD):
            done, total = read_progress(workspace, stage)
            progress.update(task, completed=done, total=max(units, total))
        done, total = read_progress(workspace, stage)
        progress.update(task, completed=done, total=max(units, total))


def _lines(workspace: Workspace, stage: str, units: int, what: str, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(_PLAIN_PERIOD):
        done, total = read_progress(workspace, stage)
        total = max(units, total)
        if done:
            seconds = time.monotonic() - started
            eta = seconds * (total - done) / done
            print(f"{stage}: {done} of {total} {what}, {seconds:.0f} s, ETA {eta:.0f} s", file=sys.stderr, flush=True)

"""Workspaces and versions as Python objects whose answers are Polars frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from pipelines.inspect import tables, versions
from pipelines.inspect.explain import explain_pair
from pipelines.inspect.status import status
from pipelines.runtime.run import RunResult, run_recipe
from transforms.publish.diff import Diff
from transforms.publish.explain import Explanation
from transforms.publish.read import Table, Version, open_version
from transforms.storage import workspace as storage

T = TypeVar("T")

_STATUS = {"stage": pl.String, "buckets": pl.Int64, "rows_in": pl.Int64, "rows_out": pl.Int64, "rejects": pl.Int64}
_DATASETS = {"name": pl.String, "version": pl.Int64, "rows": pl.Int64, "pairs": pl.Int64, "path": pl.String}


def run(
    recipe: str | Path,
    workspace: str | Path,
    *,
    until: str | None = None,
    limit: int | None = None,
    budget: int | None = None,
    beam: Sequence[str] = (),
    quiet: bool = False,
    retry_errors: bool = False,
) -> RunResult:
    """Run a recipe from its sources to a published version, as `prefine run` does.

    What is done already is not done again: run it anew after an error, or after a change of the recipe.

    Args:
        recipe: the recipe's file.
        workspace: folder or URL of the workspace; made if it is not there.
        until: the last stage to run; None for all and the version.
        limit: read at most so many rows per source.
        budget: answers to ask of people, in place of the recipe's budget.
        beam: flags for Beam.
        quiet: show no progress.
        retry_errors: ask again what servers turned away for good, though nothing changed.

    Raises:
        PrefineError: the recipe is wrong or a stage failed; the text says what and where.
    """
    return _outside_event_loop(
        lambda: run_recipe(Path(recipe), str(workspace), until, limit, beam, quiet, budget, retry_errors)
    )


def open(workspace: str | Path) -> Workspace:
    """A workspace that a run has made.

    Raises:
        WorkspaceError: there is none.
    """
    storage.Workspace.open(str(workspace))
    return Workspace(str(workspace))


@dataclass(frozen=True)
class Workspace:
    """A workspace: what its runs made, as frames, and why a pair has its label."""

    root: str

    def status(self) -> pl.DataFrame:
        """Stages in the order of a run: buckets done, rows in and out, rejects."""
        rows = [{**row, "rejects": sum(row["rejects"].values())} for row in status(self.root)]
        return pl.DataFrame([{name: row[name] for name in _STATUS} for row in rows], schema=_STATUS)

    def prompts(self) -> pl.DataFrame:
        """Prompts that generators start from."""
        return self._table("prompts")

    def pairs(self) -> pl.DataFrame:
        """Pairs after hygiene."""
        return self._table("pairs")

    def votes(self) -> pl.DataFrame:
        """Everybody's votes on the pairs: source, people, judges, scorers."""
        return self._table("votes")

    def verdicts(self) -> pl.DataFrame:
        """One verdict per pair: posterior, action, reasons."""
        return self._table("verdicts")

    def queue(self) -> pl.DataFrame:
        """The pairs that people are asked about, best first."""
        return tables.queue(self.root)

    def rejects(self) -> pl.DataFrame:
        """What left the pipeline, with stage, reason and detail."""
        return tables.rejects(self.root)

    def explain(self, pair: str, dataset: str | None = None) -> Explanation:
        """Why a pair has its label: every vote, what it added, the sum, and the rule that decided.

        Args:
            pair: its `pair_id`.
            dataset: NAME or NAME@V, to explain from that version's evidence alone.

        Raises:
            UsageError: no such pair or version.
        """
        return explain_pair(self.root, pair, dataset)

    def datasets(self) -> pl.DataFrame:
        """Published versions: name, version, rows, pairs, path."""
        rows = [
            {"name": m.name, "version": m.version, "rows": m.n_rows, "pairs": m.n_pairs, "path": path}
            for m, path in versions.published(self.root)
        ]
        return pl.DataFrame(rows, schema=_DATASETS)

    def dataset(self, name: str, version: int | str | None = None) -> Dataset:
        """A published version, the latest if none is named.

        Raises:
            UsageError: no such version.
        """
        reference = name if version is None else f"{name}@{version}"
        return Dataset(open_version(versions.datasets_of(self.root), reference))

    def diff(self, a: str, b: str, slice_by: str = "kind") -> Diff:
        """The rows that differ between two versions (NAME@V), each with its reason.

        Raises:
            UsageError: no such version.
        """
        return versions.compare(self.root, a, b, slice_by)

    def _table(self, name: str) -> pl.DataFrame:
        return tables.table_frame(storage.Workspace.open(self.root), name).collect()

    def _repr_html_(self) -> str:
        return f"<p>workspace <code>{escape(self.root)}</code></p>{_whole(self.status())}"


@dataclass(frozen=True)
class Dataset:
    """A published version."""

    version: Version

    @property
    def label(self) -> str:
        """`name@v0001`."""
        return self.version.manifest.label

    @property
    def path(self) -> str:
        """Folder or URL of its files."""
        return self.version.base

    @property
    def manifest(self) -> dict[str, Any]:
        """What it was made of and holds, as plain values."""
        return self.version.manifest.model_dump(mode="json")

    def rows(self, split: str | None = None) -> pl.DataFrame:
        """Its rows, of one split or of all."""
        rows = self.version.scan("rows")
        return (rows if split is None else rows.filter(pl.col("split") == split)).collect()

    def evidence(self, table: Table) -> pl.DataFrame:
        """`pairs`, `votes` or `verdicts` behind the rows."""
        return self.version.scan(table).collect()

    def _repr_html_(self) -> str:
        counts = self.version.manifest.rows_by_split
        frame = pl.DataFrame({"split": list(counts), "rows": list(counts.values())})
        head = f"<p>dataset <code>{escape(self.label)}</code> in <code>{escape(self.path)}</code></p>"
        return head + _whole(frame)


def _whole(frame: pl.DataFrame) -> str:
    """A frame as HTML with all of its rows."""
    with pl.Config(tbl_rows=-1, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
        return frame._repr_html_()


def _outside_event_loop(work: Callable[[], T]) -> T:
    """Do the work here, or in a thread of its own if an event loop runs here already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1, thread_name_prefix="prefine") as pool:
        return pool.submit(work).result()

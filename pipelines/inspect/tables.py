"""The tables of a workspace as lazy frames, and the files they are in."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipelines.runtime.order import RUN_ORDER
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES
from schemas.errors import WorkspaceError
from schemas.tables import TABLES, polars_schema
from transforms.annotate import display
from transforms.storage.files import is_local
from transforms.storage.workspace import Workspace

TABLE_STAGES: dict[str, tuple[str, ...]] = {
    "prompts": ("screen",),
    "pairs": PAIR_STAGES,
    "votes": VOTE_STAGES,
    "verdicts": ("fuse",),
    "queue": ("route",),
    "rows": ("materialise",),
    "annotations": ("pull",),
    "rejects": tuple(RUN_ORDER),
}


def table_frame(workspace: Workspace, table: str) -> pl.LazyFrame:
    """A table of the workspace, all buckets, lazily."""
    paths = [address(workspace, part) for part in parts(workspace, table)]
    schema = polars_schema(TABLES[table])
    return pl.scan_parquet(paths, schema=schema) if paths else pl.LazyFrame(schema=schema)


def frame_of(frame: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a lazy frame of `table_frame`.

    Raises:
        WorkspaceError: a file of the table is gone or damaged.
    """
    try:
        return frame.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise WorkspaceError(f"cannot read the table: {error}; run again: the run makes what is missing") from None


def rejects(root: str, limit: int | None = None) -> pl.DataFrame:
    """Rejected records of every stage, by stage and reason; the first `limit`, or all."""
    frame = table_frame(Workspace.open(root), "rejects").sort("stage", "reason", "record_id")
    return frame_of(frame if limit is None else frame.head(limit))


def queue(root: str, limit: int | None = None) -> pl.DataFrame:
    """The queue for humans, best first; the first `limit` pairs, or all."""
    frame = table_frame(Workspace.open(root), "queue").sort("rank")
    return frame_of(frame if limit is None else frame.head(limit))


def beginnings(root: str, pair_ids: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """The beginnings of prompt, response a and response b of the pairs that there are, by pair."""
    frame = table_frame(Workspace.open(root), "pairs").filter(pl.col("pair_id").is_in(list(pair_ids)))
    texts = frame.select("pair_id", "prompt", "response_a", "response_b")
    return {pair: display.beginnings(prompt, a, b) for pair, prompt, a, b in frame_of(texts).iter_rows()}


def parts(workspace: Workspace, table: str) -> list[str]:
    """Paths of the Parquet files that a table consists of, by bucket."""
    return [
        f"{workspace.bucket_dir(table, bucket)}/{part}"
        for bucket in workspace.buckets
        for part in workspace.parts(table, bucket, TABLE_STAGES[table])
    ]


def address(workspace: Workspace, path: str) -> str:
    """A path of the workspace as DuckDB reads it."""
    return path if is_local(workspace.fs) else str(workspace.fs.unstrip_protocol(path))

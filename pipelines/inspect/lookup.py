"""Questions about a workspace: how far it is, what a pair's label rests on, what SQL sees."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.inspect.estimates import kept_estimates, said
from pipelines.inspect.judges import prefix_caches, requests
from pipelines.runtime.order import RUN_ORDER
from pipelines.runtime.progress import read_progress
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES, summarise
from pipelines.stages.fuse import judgement
from schemas.errors import UsageError
from schemas.ids import ID_PATTERN
from schemas.tables import TABLES, polars_schema
from transforms.publish.catalog import catalogued, manifest_tables, rebuild
from transforms.publish.explain import Explanation, explain
from transforms.publish.query import SECONDS, query
from transforms.publish.read import open_version
from transforms.publish.recompute import FUSER, POLICY, fitted
from transforms.publish.store import Datasets
from transforms.storage.files import is_local, parquet_bytes, write_atomic
from transforms.storage.workspace import Workspace

CATALOG = "catalog.duckdb"

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


def status(root: str) -> list[dict[str, Any]]:
    """Per stage of a run: buckets done, rows, rejects by reason, seconds, ETA; what it asked whom."""
    workspace = Workspace.open(root)
    rows = []
    for name in RUN_ORDER:
        checkpoints = workspace.checkpoints(name)
        summary = summarise(name, list(checkpoints.values()))
        done, total = read_progress(workspace, name)
        eta = summary.seconds / summary.buckets * (workspace.n_buckets - summary.buckets) if summary.buckets else None
        row = {**asdict(summary), "n_buckets": workspace.n_buckets, "units_done": done, "units_total": total}
        asked = {"requests": requests(workspace, name), "prefix_caches": prefix_caches(workspace, name)}
        rows.append({**row, "eta_seconds": eta, **asked})
    return rows


def fusion_notes(root: str) -> list[str]:
    """The estimated share of wrong labels and predicted beside actual actions; empty before a fusion has finished."""
    return said(kept_estimates(Workspace.open(root)))


def find_pair(workspace: Workspace, pair_id: str) -> int:
    """The bucket that holds a pair.

    Raises:
        UsageError: it is not an id, or no bucket holds it.
    """
    if not re.fullmatch(ID_PATTERN, pair_id):
        raise UsageError(f"{pair_id!r} is not a pair id: 32 hex digits, as in the column pair_id")
    for bucket in workspace.buckets:
        if (workspace.read("pairs", bucket, PAIR_STAGES, ["prompt_id"])["pair_id"] == pair_id).any():
            return bucket
    raise UsageError(f"no pair {pair_id} in workspace {workspace.root}")


def explain_pair(root: str, pair_id: str, dataset: str | None = None) -> Explanation:
    """Why a pair has its label, from the workspace or, with `dataset` (NAME or NAME@V), from a version alone."""
    if dataset is not None:
        return _from_version(root, pair_id, dataset)
    workspace = Workspace.open(root)
    bucket = find_pair(workspace, pair_id)
    frames = {table: workspace.read(table, bucket, TABLE_STAGES[table]) for table in ("pairs", "votes", "verdicts")}
    return explain(pair_id, frames["pairs"], frames["votes"], frames["verdicts"], **judgement(workspace))


def _from_version(root: str, pair_id: str, dataset: str) -> Explanation:
    version = open_version(Workspace.open(root).datasets, dataset)
    pairs, votes, verdicts = (
        version.scan(table).filter(pl.col("pair_id") == pair_id).collect() for table in ("pairs", "votes", "verdicts")
    )
    return explain(pair_id, pairs, votes, verdicts, fitted(version, FUSER), fitted(version, POLICY))


def table_frame(workspace: Workspace, table: str) -> pl.LazyFrame:
    """A table of the workspace, all buckets, lazily."""
    paths = [_address(workspace, part) for part in _parts(workspace, table)]
    schema = polars_schema(TABLES[table])
    return pl.scan_parquet(paths, schema=schema) if paths else pl.LazyFrame(schema=schema)


def rejects(root: str, limit: int) -> pl.DataFrame:
    """Rejected records of every stage, by stage and reason."""
    workspace = Workspace.open(root)
    return table_frame(workspace, "rejects").sort("stage", "reason", "record_id").head(limit).collect()


def queue(root: str, limit: int) -> pl.DataFrame:
    """The queue for humans, best first."""
    return table_frame(Workspace.open(root), "queue").sort("rank").head(limit).collect()


def rebuild_catalog(root: str) -> list[str]:
    """Write `catalog.duckdb` anew from manifests and checkpoints; returns the names of its views and tables.

    Raises:
        UsageError: the workspace lies on an object store, where DuckDB has no files.
    """
    workspace = Workspace.open(root)
    if not is_local(workspace.fs):
        raise UsageError(f"{root} is not on a local disk: it has no catalog.duckdb; ask it with: prefine sql")
    return _rebuild(workspace, workspace.local_path(CATALOG))


def sql(
    root: str, text: str, limit: int | None = None, seconds: float = SECONDS
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement over the workspace's tables and the dataset versions; see `transforms.publish.query`.

    Raises:
        UsageError: the statement is wrong, tries to write or takes too long.
    """
    workspace = Workspace.open(root)
    parts = _listed(workspace)
    views, manifests = catalogued(_versions(workspace), parts)
    empty = {name: pl.DataFrame(schema=polars_schema(TABLES[name])) for name, files in parts.items() if not files}
    return query(text, views, empty | manifest_tables(manifests), workspace.fs, limit, seconds)


def _rebuild(workspace: Workspace, catalog: Path) -> list[str]:
    tables = {
        table: files or [_address(workspace, _empty_part(workspace, table))]
        for table, files in _listed(workspace).items()
    }
    return rebuild(catalog, _versions(workspace), tables)


def _listed(workspace: Workspace) -> dict[str, list[str]]:
    return {table: [_address(workspace, part) for part in _parts(workspace, table)] for table in TABLE_STAGES}


def _versions(workspace: Workspace) -> Datasets:
    return Datasets(_address(workspace, workspace.path("datasets")))


def _address(workspace: Workspace, path: str) -> str:
    """A path of the workspace as DuckDB reads it."""
    return path if is_local(workspace.fs) else str(workspace.fs.unstrip_protocol(path))


def _parts(workspace: Workspace, table: str) -> list[str]:
    return [
        f"{workspace.bucket_dir(table, bucket)}/{part}"
        for bucket in workspace.buckets
        for part in workspace.parts(table, bucket, TABLE_STAGES[table])
    ]


def _empty_part(workspace: Workspace, table: str) -> str:
    """A file with the table's columns and no rows, so that its view exists before its first row does."""
    path = workspace.path("stages", "catalog", f"{table}.parquet")
    if not workspace.fs.exists(path):
        write_atomic(workspace.fs, path, parquet_bytes(pl.DataFrame(schema=polars_schema(TABLES[table]))))
    return path

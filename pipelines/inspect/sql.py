"""SQL over a workspace and its versions, and the catalog that other DuckDB clients open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from pipelines.inspect.tables import TABLE_STAGES, address, parts
from schemas.errors import UsageError
from schemas.tables import TABLES, polars_schema
from transforms.publish.catalog import catalogued, manifest_tables, rebuild
from transforms.publish.query import SECONDS, query
from transforms.publish.store import Datasets
from transforms.storage.files import is_local, parquet_bytes, write_atomic
from transforms.storage.workspace import Workspace

CATALOG = "catalog.duckdb"


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
    root: str, text: str, limit: int | None = None, seconds: float | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement over the workspace's tables and the dataset versions; see `transforms.publish.query`.

    Raises:
        UsageError: the statement is wrong, tries to write or takes too long.
    """
    workspace = Workspace.open(root)
    listed = _listed(workspace)
    views, manifests = catalogued(_versions(workspace), listed)
    empty = {name: pl.DataFrame(schema=polars_schema(TABLES[name])) for name, files in listed.items() if not files}
    return query(
        text, views, empty | manifest_tables(manifests), workspace.fs, limit, SECONDS if seconds is None else seconds
    )


def _rebuild(workspace: Workspace, catalog: Path) -> list[str]:
    tables = {
        table: files or [address(workspace, _empty_part(workspace, table))]
        for table, files in _listed(workspace).items()
    }
    return rebuild(catalog, _versions(workspace), tables)


def _listed(workspace: Workspace) -> dict[str, list[str]]:
    return {table: [address(workspace, part) for part in parts(workspace, table)] for table in TABLE_STAGES}


def _versions(workspace: Workspace) -> Datasets:
    return Datasets(address(workspace, workspace.path("datasets")))


def _empty_part(workspace: Workspace, table: str) -> str:
    """A file with the table's columns and no rows, so that its view exists before its first row does."""
    path = workspace.path("stages", "catalog", f"{table}.parquet")
    if not workspace.fs.exists(path):
        write_atomic(workspace.fs, path, parquet_bytes(pl.DataFrame(schema=polars_schema(TABLES[table]))))
    return path

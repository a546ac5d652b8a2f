"""The catalog: a DuckDB file of views over every dataset version and workspace table, made from manifests alone.

It holds no data and can be removed and rebuilt at any time. Views: `"NAME@v0001"` and `"NAME"` (the latest) for rows,
`"NAME@v0001/votes"` and so on for evidence, every workspace table by its name (it wins over a dataset of that name),
and the tables `versions` and `version_files`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from schemas.errors import UsageError
from schemas.manifest import Manifest, version_name
from transforms.publish.read import Table, Version
from transforms.publish.store import Datasets

EVIDENCE: tuple[Table, ...] = ("rejects", "pairs", "votes", "verdicts", "splits")
RESERVED = frozenset({"versions", "version_files"})


def rebuild(catalog: Path, datasets: Datasets, tables: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Write the catalog anew; readers of the old one, and others who write it at the same time, are not disturbed.

    Args:
        catalog: the DuckDB file.
        datasets: where the versions live.
        tables: Parquet files of the workspace's tables, by table; a table without files gets no view.

    Returns:
        The names of all views and tables, sorted.
    """
    own = {name: list(files) for name, files in (tables or {}).items() if files}
    views = dict(own)
    manifests = []
    for name in datasets.names():
        for number in datasets.versions(name):
            manifest = datasets.manifest(name, number)
            manifests.append(manifest)
            views |= _version_views(Version(manifest, datasets.url(name, version_name(number)))) | own
    building = catalog.with_name(f".{catalog.name}.{uuid.uuid4().hex}")
    try:
        _write(building, datasets, views, manifests)
        building.replace(catalog)
    finally:
        building.unlink(missing_ok=True)
    return sorted([*views, *RESERVED])


def _write(file: Path, datasets: Datasets, views: Mapping[str, Sequence[str]], manifests: Sequence[Manifest]) -> None:
    with duckdb.connect(str(file)) as connection:
        if not datasets.is_local:
            connection.register_filesystem(datasets.fs)
        for view, files in sorted(views.items()):
            listed = ", ".join(_text(f) for f in files)
            connection.execute(f"CREATE VIEW {identifier(view)} AS SELECT * FROM read_parquet([{listed}])")  # noqa: S608
        for table, frame in _manifest_tables(manifests):
            connection.register("incoming", frame.to_arrow())
            connection.execute(f"CREATE TABLE {identifier(table)} AS SELECT * FROM incoming")  # noqa: S608
            connection.unregister("incoming")


def query(
    catalog: Path, sql: str, folders: Sequence[str], limit: int | None = None, fs: Any = None
) -> tuple[list[str], list[Any]]:
    """Column names and rows of one SELECT; nothing can be written, and no file outside `folders` can be read.

    Args:
        catalog: the DuckDB file.
        sql: one SELECT.
        folders: folders or URLs.
        limit: at most this many rows.
        fs: the fsspec file system of the URLs; None where all is on a local disk.

    Raises:
        UsageError: it is not one SELECT, or DuckDB refuses it.
    """
    with duckdb.connect(str(catalog), read_only=True) as connection:
        if fs is not None:
            connection.register_filesystem(fs)
        allowed = ", ".join(_text(f"{folder.rstrip('/')}/") for folder in folders)
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            statements = connection.extract_statements(sql)
            reading = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
            if len(statements) != 1 or statements[0].type not in reading:
                raise UsageError("only one SELECT at a time; nothing can be written")
            result = connection.execute(statements[0])
            rows = result.fetchall() if limit is None else result.fetchmany(limit)
        except duckdb.Error as error:
            raise UsageError(f"SQL: {error}") from None
        return [column[0] for column in result.description or []], rows


def identifier(name: str) -> str:
    """A name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _version_views(version: Version) -> dict[str, list[str]]:
    """Views of one version; versions come in ascending order, so the plain name ends as the latest."""
    label, name = version.manifest.label, version.manifest.name
    found = {f"{label}/{table}": version.files(table) for table in EVIDENCE}
    found[label] = version.files("rows")
    if name not in RESERVED:
        found[name] = version.files("rows")
    return {view: files for view, files in found.items() if files}


def _manifest_tables(manifests: Sequence[Manifest]) -> Iterator[tuple[str, pl.DataFrame]]:
    counts = ("name", "version", "parent", "n_pairs", "n_rows", "n_rejects", "row_hash", "recipe_hash", "code_version")
    versions = [{c: getattr(m, c) for c in counts} for m in manifests]
    integers = {"version", "parent", "n_pairs", "n_rows", "n_rejects"}
    yield "versions", pl.DataFrame(versions, schema={c: pl.Int64 if c in integers else pl.String for c in counts})
    files = [
        {"name": m.name, "version": m.version, "file": f, "sha256": e.sha256, "bytes": e.bytes, "rows": e.rows}
        for m in manifests
        for f, e in m.files.items()
    ]
    kinds: dict[str, Any] = {"name": pl.String, "version": pl.Int64, "file": pl.String, "sha256": pl.String}
    yield "version_files", pl.DataFrame(files, schema={**kinds, "bytes": pl.Int64, "rows": pl.Int64})

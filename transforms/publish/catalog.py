"""The catalog: a DuckDB file of views over every dataset version and workspace table, made from manifests alone.

It holds no data and can be removed and rebuilt at any time. Views: `"NAME@v0001"` and `"NAME"` (the latest) for rows,
`"NAME@v0001/votes"` and so on for evidence, every workspace table by its name (it wins over a dataset of that name),
and the tables `versions` and `version_files`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from schemas.errors import WorkspaceError
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

    Raises:
        WorkspaceError: a file is gone or damaged.
    """
    views, manifests = catalogued(datasets, tables or {})
    building = catalog.with_name(f".{catalog.name}.{uuid.uuid4().hex}")
    try:
        _write(building, datasets, views, manifests)
        building.replace(catalog)
    except duckdb.Error as error:
        text = str(error).partition("\n")[0]
        raise WorkspaceError(f"cannot read the tables: {text}; run again: the run makes what is missing") from None
    finally:
        building.unlink(missing_ok=True)
    return sorted([*views, *RESERVED])


def _write(file: Path, datasets: Datasets, views: Mapping[str, Sequence[str]], manifests: Sequence[Manifest]) -> None:
    with duckdb.connect(str(file)) as connection:
        if not datasets.is_local:
            connection.register_filesystem(datasets.fs)
        for view, files in sorted(views.items()):
            create_view(connection, view, files)
        for table, frame in manifest_tables(manifests).items():
            connection.register("incoming", frame.to_arrow())
            connection.execute(f"CREATE TABLE {identifier(table)} AS SELECT * FROM incoming")  # noqa: S608
            connection.unregister("incoming")


def catalogued(
    datasets: Datasets, tables: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Sequence[str]], list[Manifest]]:
    """The files behind every view, and the manifests of all versions."""
    own = {name: files for name, files in tables.items() if files}
    views: dict[str, Sequence[str]] = {}
    manifests = []
    for name in datasets.names():
        for number in datasets.versions(name):
            manifest = datasets.manifest(name, number)
            manifests.append(manifest)
            views |= _version_views(Version(manifest, datasets.url(name, version_name(number))))
    return views | own, manifests


def create_view(connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[str]) -> None:
    """Make a view over Parquet files."""
    listed = ", ".join(_text(f) for f in files)
    connection.execute(f"CREATE OR REPLACE VIEW {identifier(name)} AS SELECT * FROM read_parquet([{listed}])")  # noqa: S608


def identifier(name: str) -> str:
    """A name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _version_views(version: Version) -> dict[str, list[str]]:
    """Views of one version; versions come in ascending order, so the plain name ends as the latest."""
    label, name = version.manifest.label, version.manifest.name
    views = {f"{label}/{table}": version.files(table) for table in EVIDENCE}
    views[label] = version.files("rows")
    if name not in RESERVED:
        views[name] = version.files("rows")
    return {view: files for view, files in views.items() if files}


def manifest_tables(manifests: Sequence[Manifest]) -> dict[str, pl.DataFrame]:
    """The tables `versions` and `version_files`."""
    counts = ("name", "version", "parent", "n_pairs", "n_rows", "n_rejects", "row_hash", "recipe_hash", "code_version")
    versions = [{c: getattr(m, c) for c in counts} for m in manifests]
    integers = {"version", "parent", "n_pairs", "n_rows", "n_rejects"}
    files = [
        {"name": m.name, "version": m.version, "file": f, "sha256": e.sha256, "bytes": e.bytes, "rows": e.rows}
        for m in manifests
        for f, e in m.files.items()
    ]
    kinds: dict[str, Any] = {"name": pl.String, "version": pl.Int64, "file": pl.String, "sha256": pl.String}
    return {
        "versions": pl.DataFrame(versions, schema={c: pl.Int64 if c in integers else pl.String for c in counts}),
        "version_files": pl.DataFrame(files, schema={**kinds, "bytes": pl.Int64, "rows": pl.Int64}),
    }

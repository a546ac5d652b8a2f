"""Writing a dataset version in the format a trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from schemas.recipe import PluginUse
from schemas.tables import DatasetRows, polars_schema
from transforms.build import build
from transforms.publish.store import Datasets
from transforms.storage.workspace import Workspace


def export_version(root: str, dataset: str, form: str, out: Path, options: dict[str, Any]) -> dict[str, int]:
    """Export NAME or NAME@V; returns rows per split.

    Raises:
        UsageError: no such version, exporter or option.
    """
    Workspace.open(root)
    exporter = build("exporters", PluginUse.model_validate({**options, "plugin": form}), 0)
    counts: dict[str, int] = exporter.export(version_rows(root, dataset), out)
    return counts


def version_rows(root: str, dataset: str) -> pl.LazyFrame:
    """The rows of a version, all splits, lazily."""
    store = Datasets(f"{root.rstrip('/')}/datasets")
    name, version = store.resolve(dataset)
    manifest = store.manifest(name, version)
    files = [store.url(name, f"v{version:04d}", file) for file in manifest.files if file.startswith("data/")]
    schema = polars_schema(DatasetRows)
    return pl.scan_parquet(files) if files else pl.LazyFrame(schema=schema)

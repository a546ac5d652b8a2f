"""Reading a version: its tables as lazy frames, from the files its manifest names and no others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from schemas.manifest import Manifest, version_name
from schemas.tables import DatasetRows, Rejects, polars_schema
from transforms.publish.files import EVIDENCE_SCHEMAS
from transforms.publish.splits import SPLITS_SCHEMA
from transforms.publish.store import Datasets

Table = Literal["rows", "rejects", "pairs", "votes", "verdicts", "splits"]
_POLARS_PROTOCOLS = frozenset({"file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "http", "https"})
_PREFIX: dict[Table, str] = {
    "rows": "data/",
    "rejects": "rejects-",
    "pairs": "evidence/pairs-",
    "votes": "evidence/votes-",
    "verdicts": "evidence/verdicts-",
    "splits": "evidence/splits-",
}
_SCHEMA: dict[Table, pl.Schema] = {
    "rows": polars_schema(DatasetRows),
    "rejects": polars_schema(Rejects),
    "splits": SPLITS_SCHEMA,
    "pairs": EVIDENCE_SCHEMAS["pairs"],
    "votes": EVIDENCE_SCHEMAS["votes"],
    "verdicts": EVIDENCE_SCHEMAS["verdicts"],
}


@dataclass(frozen=True)
class Version:
    """A version's manifest and the folder or URL of its files (a staged folder too)."""

    manifest: Manifest
    base: str

    def files(self, table: Table) -> list[str]:
        """Addresses of a table's files, in order."""
        names = (f for f in sorted(self.manifest.files) if f.startswith(_PREFIX[table]) and f.endswith(".parquet"))
        return [f"{self.base}/{name}" for name in names]

    def scan(self, table: Table) -> pl.LazyFrame:
        """A table, lazily; an empty one if the version has no file of it."""
        files = self.files(table)
        if not files:
            return pl.LazyFrame(schema=_SCHEMA[table])
        if self._scannable:
            return pl.scan_parquet(files, glob=False)
        return pl.concat([self.read(file) for file in files]).lazy()

    def read(self, file: str) -> pl.DataFrame:
        """One of `files` as a frame."""
        if self._scannable:
            return pl.read_parquet(file, glob=False)
        import fsspec

        with fsspec.open(file, "rb") as opened:
            return pl.read_parquet(opened)

    def document(self, name: str) -> bytes | None:
        """A file of the version that is not a table, or None if its manifest does not name it."""
        if name not in self.manifest.files:
            return None
        import fsspec

        with fsspec.open(f"{self.base}/{name}", "rb") as opened:
            data: bytes = opened.read()
        return data

    @property
    def _scannable(self) -> bool:
        """Whether Polars reads this address by itself; any other goes through fsspec."""
        protocol, separator, _ = self.base.partition("://")
        return not separator or protocol in _POLARS_PROTOCOLS


def open_version(datasets: str | Path, reference: str) -> Version:
    """The version that `NAME`, `NAME@V` or `NAME@v0003` names.

    Raises:
        UsageError: there is no such version.
        WorkspaceError: its manifest is damaged.
    """
    store = Datasets(datasets)
    name, version = store.resolve(reference)
    return Version(store.manifest(name, version), store.url(name, version_name(version)))

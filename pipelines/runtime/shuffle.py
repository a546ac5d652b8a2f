"""Between the two passes of stage ingest: the staged files of many slices become few.

Every bucket reads every staged file, so direct gathering opens slices x buckets files: with slices and buckets that
both grow with the rows, ever more a row. Where that is much, a group of slices is first dealt into ranges of
buckets, about sqrt(buckets) wide; a bucket then reads one file a group. The order of rows within a bucket is that of
the slices in both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from schemas.errors import WorkspaceError
from schemas.ids import canonical_json, hash_json
from schemas.tables import TABLES, polars_schema
from transforms.storage.files import parquet_bytes, read_json, read_where, write_atomic
from transforms.storage.workspace import Workspace

STAGED_TABLES = ("prompts", "pairs", "votes", "rejects")
_READ_DIRECTLY = 20_000  # files opened; up to here dealing costs more than it saves


def staged(workspace: Workspace, key: str, suffix: str) -> str:
    """Path of a slice's staged file."""
    return workspace.path("stages", "ingest", "slices", f"{key}.{suffix}")


def write_staged(workspace: Workspace, path: str, rows: pl.DataFrame, n_buckets: int) -> None:
    """Write rows of `n_buckets` buckets so that those of one can be read without the others."""
    data = parquet_bytes(rows.sort("bucket", maintain_order=True), max(256, rows.height // n_buckets), scratch=True)
    write_atomic(workspace.fs, path, data)


def groups_of(keys: Sequence[str], n_buckets: int) -> list[Group]:
    """Consecutive slices to be dealt together; none where few slices meet few buckets."""
    if len(keys) * n_buckets <= _READ_DIRECTLY:
        return []
    width = math.isqrt(n_buckets - 1) + 1
    return [Group(tuple(keys[i : i + width]), width) for i in range(0, len(keys), width)]


@dataclass(frozen=True)
class Group:
    """Keys of consecutive slices, and how many buckets a range has."""

    slices: tuple[str, ...]
    width: int

    def path(self, workspace: Workspace, suffix: str) -> str:
        """Path of one of the group's files."""
        key = hash_json([self.slices, self.width, workspace.n_buckets])
        return workspace.path("stages", "ingest", "groups", f"{key}.{suffix}")

    def files(self, workspace: Workspace) -> dict[tuple[str, int], str] | None:
        """Table and range -> path; None unless all of them are there."""
        manifest = read_json(workspace.fs, self.path(workspace, "json"))
        if manifest is None:
            return None
        paths = {
            (table, at): self.path(workspace, f"{table}-{at:04d}.parquet")
            for table, ranges in manifest.items()
            for at in ranges
        }
        return paths if all(map(workspace.fs.exists, paths.values())) else None

    def forget_slices(self, workspace: Workspace) -> None:
        """Remove what the group's files hold too, so that a workspace holds its input once.

        Manifests and rejects of slices stay: they are counted before anything is gathered.
        """
        for key in self.slices:
            for table in STAGED_TABLES:
                path = staged(workspace, key, f"{table}.parquet")
                if table != "rejects" and workspace.fs.exists(path):
                    workspace.fs.rm_file(path)


def deal(workspace: Workspace, group: Group) -> None:
    """A group's slices to one file per table and range of buckets, the manifest last; nothing where that was done.

    Raises:
        WorkspaceError: a slice is gone.
    """
    if group.files(workspace) is not None:
        return
    held: dict[str, list[str]] = {table: [] for table in STAGED_TABLES}
    for key in group.slices:
        path = staged(workspace, key, "json")
        manifest_of_slice = read_json(workspace.fs, path)
        if manifest_of_slice is None:
            raise WorkspaceError(f"{path} is gone; run ingest again")
        for table in manifest_of_slice["tables"]:
            held[table].append(staged(workspace, key, f"{table}.parquet"))
    manifest: dict[str, list[int]] = {}
    for table, paths in held.items():
        schema = pl.Schema({**polars_schema(TABLES[table]), "bucket": pl.Int64()})
        for at, low in enumerate(range(0, workspace.n_buckets, group.width)):
            rows = read_where(workspace.fs, paths, "bucket", low, low + group.width, schema)
            if rows.height:
                write_staged(workspace, group.path(workspace, f"{table}-{at:04d}.parquet"), rows, group.width)
                manifest.setdefault(table, []).append(at)
    write_atomic(workspace.fs, group.path(workspace, "json"), canonical_json(manifest))

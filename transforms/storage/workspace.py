"""The workspace: tables in buckets, and one checkpoint per stage and bucket.

A table's content is the union of the parts that the checkpoints name. A part is a Parquet file named
by the hash of its bytes, so writing it twice is harmless; a checkpoint is written after its parts, so
a bucket of a stage is done or it is not. A stage's output is a pure function of its inputs, whose hash
is the checkpoint's key: equal key, nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from schemas.errors import WorkspaceError
from schemas.ids import bucket_of, canonical_json, hash_bytes
from schemas.tables import TABLES, conform, polars_schema, primary_key
from transforms.storage.files import (
    exclusive,
    file_system,
    is_local,
    parquet_bytes,
    read_json,
    read_parquet,
    write_atomic,
)

LAYOUT = 1
_SETTINGS_FIX = 'write {"layout": 1, "n_buckets": N} with the `buckets` of the recipe'


@dataclass(frozen=True)
class Checkpoint:
    """What one stage made of one bucket."""

    key: str
    parts: dict[str, list[str]] = field(default_factory=dict)  # table -> part names
    rows_in: int = 0
    rows_out: int = 0
    rejects: dict[str, int] = field(default_factory=dict)  # reason -> rows
    usage: dict[str, Any] = field(default_factory=dict)  # calls, tokens, ... by engine and purpose
    counts: dict[str, Any] = field(default_factory=dict)  # what else the stage counted
    seconds: float = 0.0
    failures: dict[str, Any] = field(default_factory=dict)  # requests without an answer, by cause
    rows: dict[str, int] | None = None  # table -> rows in its parts; None in checkpoints of earlier releases


@dataclass
class Output:
    """Frames a stage made of one bucket, and what it counted; rows_in = rows_out + rejected rows.

    `complete` is false where some answer is missing: the bucket stays pending. `parts` names parts that are there
    already and belong to this output as they are; `rows` says how many rows those hold.
    """

    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    rows_in: int = 0
    rows_out: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    parts: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """A workspace at a path or fsspec URL. Picklable: workers open it for themselves."""

    root: str
    n_buckets: int

    @classmethod
    def create(cls, root: str, n_buckets: int) -> Workspace:
        """Open the workspace at `root`, making it first if there is none.

        Raises:
            WorkspaceError: it exists with another number of buckets or another layout.
        """
        fs, path = file_system(root)
        settings = read_json(fs, f"{path}/workspace.json")
        if settings is None:
            if n_buckets < 1:
                raise WorkspaceError(f"a workspace needs at least 1 bucket, not {n_buckets}")
            write_atomic(fs, f"{path}/workspace.json", canonical_json({"layout": LAYOUT, "n_buckets": n_buckets}))
            return cls.open(root)
        workspace = cls.open(root)
        if workspace.n_buckets != n_buckets:
            raise WorkspaceError(
                f"workspace {root} has {workspace.n_buckets} buckets, the recipe says {n_buckets}: "
                "the number is fixed when a workspace is made; use another workspace or that number"
            )
        return workspace

    @classmethod
    def open(cls, root: str) -> Workspace:
        """Open an existing workspace.

        Raises:
            WorkspaceError: there is none at `root`, or what it says of itself is damaged or of another release.
        """
        fs, path = file_system(root)
        settings = read_json(fs, f"{path}/workspace.json")
        if settings is None:
            raise WorkspaceError(f"no workspace at {root}; make one with: prefine init {root}")
        if not isinstance(settings, dict):
            raise WorkspaceError(f"{path}/workspace.json is {type(settings).__name__}, not an object: {_SETTINGS_FIX}")
        if settings.get("layout") != LAYOUT:
            raise WorkspaceError(f"workspace {root} has layout {settings.get('layout')}, this prefine reads {LAYOUT}")
        n_buckets = settings.get("n_buckets")
        if not isinstance(n_buckets, int) or n_buckets < 1:
            raise WorkspaceError(f"{path}/workspace.json says n_buckets {n_buckets!r}: {_SETTINGS_FIX}")
        return cls(root, n_buckets)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "n_buckets": self.n_buckets}

    @cached_property
    def _located(self) -> tuple[Any, str]:
        return file_system(self.root)

    @property
    def fs(self) -> Any:
        """The fsspec file system the workspace lies on."""
        return self._located[0]

    def path(self, *names: str) -> str:
        """A path inside the workspace, for use with `fs`."""
        return "/".join((self._located[1], *names))

    def local_path(self, *names: str) -> Path:
        """A path inside a workspace that must lie on a local disk.

        Raises:
            WorkspaceError: the workspace lies on an object store.
        """
        if not is_local(self.fs):
            raise WorkspaceError(f"{self.root} is not on a local disk")
        return Path(self.path(*names))

    @property
    def datasets(self) -> str:
        """Folder or URL of the published versions."""
        return f"{self.root.rstrip('/')}/datasets"

    @property
    def buckets(self) -> range:
        """All bucket numbers."""
        return range(self.n_buckets)

    def bucket_dir(self, table: str, bucket: int) -> str:
        """The folder of a table's parts of one bucket."""
        return self.path("tables", table, f"bucket={bucket:04d}")

    def checkpoint(self, stage: str, bucket: int) -> Checkpoint | None:
        """What the stage made of the bucket, or None."""
        path = self._checkpoint_path(stage, bucket)
        value = read_json(self.fs, path)
        if value is None:
            return None
        try:
            return Checkpoint(**value)
        except TypeError:
            raise WorkspaceError(
                f"{path} is no checkpoint of this release ({_difference(value)}): run the newer prefine that wrote it, "
                "or delete it and run again"
            ) from None

    def checkpoints(self, stage: str) -> dict[int, Checkpoint]:
        """All checkpoints of a stage by bucket."""
        checkpoints = {bucket: self.checkpoint(stage, bucket) for bucket in self.buckets}
        return {bucket: checkpoint for bucket, checkpoint in checkpoints.items() if checkpoint is not None}

    def is_whole(self, bucket: int, checkpoint: Checkpoint) -> bool:
        """Whether every part that the checkpoint names is there."""
        return all(
            self.fs.exists(f"{self.bucket_dir(table, bucket)}/{name}")
            for table, names in checkpoint.parts.items()
            for name in names
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of a workspace on a local disk for the duration of the block.

        Two runs at once would do no harm to what is stored, but each would buy the answers the other is waiting for.

        Raises:
            WorkspaceError: another process on this machine is running in it.
        """
        if not is_local(self.fs):
            yield
            return
        with exclusive(self.local_path("run.lock")) as mine:
            if not mine:
                raise WorkspaceError(f"another prefine is running in {self.root}; wait until it ends, or stop it")
            yield

    def commit(self, stage: str, bucket: int, key: str, output: Output, seconds: float) -> Checkpoint:
        """Write a stage's output of one bucket: parts first, checkpoint last.

        Raises:
            WorkspaceError: rows_in differs from rows_out plus rejects, or a table holds an id twice, of which only
                one row would be kept: a row was lost.
        """
        rejects = output.tables.get("rejects")
        reasons = {} if rejects is None else dict(sorted(rejects["reason"].value_counts().iter_rows()))
        if output.rows_in != output.rows_out + sum(reasons.values()):
            raise WorkspaceError(
                f"stage {stage}, bucket {bucket}: {output.rows_in} rows in, {output.rows_out} out and "
                f"{sum(reasons.values())} rejected: rows were lost; this is a bug in a plug-in of that stage"
            )
        for table, frame in sorted(output.tables.items()):
            key_column = primary_key(TABLES[table])
            repeated = frame[key_column].filter(frame[key_column].is_duplicated())
            if len(repeated):
                raise WorkspaceError(
                    f"stage {stage}, bucket {bucket}: {len(repeated)} rows of table {table} share a {key_column}, the "
                    f"first {repeated[0]}: all but one would be lost; this is a bug in a plug-in of that stage"
                )
        parts = {
            table: [self.write_part(table, bucket, frame)]
            for table, frame in sorted(output.tables.items())
            if frame.height
        }
        rows = dict(output.rows)
        for table, frame in output.tables.items():
            rows[table] = rows.get(table, 0) + frame.height
        for table, there in output.parts.items():
            parts[table] = sorted({*parts.get(table, ()), *there})
        checkpoint = Checkpoint(
            key,
            parts,
            output.rows_in,
            output.rows_out,
            reasons,
            output.usage,
            output.counts,
            seconds,
            output.failures,
            rows,
        )
        self.write_checkpoint(stage, bucket, checkpoint)
        return checkpoint

    def write_checkpoint(self, stage: str, bucket: int, checkpoint: Checkpoint) -> None:
        """Replace what is known of a stage's output of one bucket."""
        write_atomic(self.fs, self._checkpoint_path(stage, bucket), canonical_json(asdict(checkpoint)))

    def write_part(self, table: str, bucket: int, frame: pl.DataFrame) -> str:
        """Write rows of a table, deduplicated and sorted by id; returns the part's name.

        The name is the hash of the content without how long it took (`ms`), so that a stage done again in
        another time gives the same part, and everything that depends on it is still up to date.
        """
        schema = TABLES[table]
        frame = sort_unique(conform(frame, schema), primary_key(schema))
        data = parquet_bytes(frame)
        is_timed = "ms" in frame.columns and (frame["ms"] != 0).any()
        name = f"{hash_bytes(parquet_bytes(frame.drop('ms')) if is_timed else data)}.parquet"
        path = f"{self.bucket_dir(table, bucket)}/{name}"
        if not self.fs.exists(path):
            write_atomic(self.fs, path, data)
        return name

    def parts(self, table: str, bucket: int, stages: Iterable[str]) -> list[str]:
        """Names of the table's parts in a bucket, as the stages' checkpoints name them; sorted."""
        parts: set[str] = set()
        for stage in stages:
            checkpoint = self.checkpoint(stage, bucket)
            if checkpoint is not None:
                parts.update(checkpoint.parts.get(table, ()))
        return sorted(parts)

    def read(
        self, table: str, bucket: int, stages: Iterable[str], columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """The table's rows in a bucket, deduplicated and sorted by id."""
        schema = TABLES[table]
        key = primary_key(schema)
        wanted = None if columns is None else list(dict.fromkeys([key, *columns]))
        frames = [
            read_parquet(self.fs, f"{self.bucket_dir(table, bucket)}/{name}", wanted)
            for name in self.parts(table, bucket, stages)
        ]
        if not frames:
            empty = pl.DataFrame(schema=polars_schema(schema))
            return empty if wanted is None else empty.select(wanted)
        return sort_unique(pl.concat(frames), key)

    def write_artefact(self, stage: str, name: str, data: bytes) -> None:
        """Write a stage's artefact for the whole workspace (a fitted model)."""
        write_atomic(self.fs, self.path("stages", stage, name), data)

    def has_artefact(self, stage: str, name: str) -> bool:
        """Whether a stage has an artefact of that name."""
        return bool(self.fs.exists(self.path("stages", stage, name)))

    def read_artefact(self, stage: str, name: str) -> bytes | None:
        """A stage's artefact, or None."""
        try:
            data: bytes = self.fs.cat_file(self.path("stages", stage, name))
        except FileNotFoundError:
            return None
        return data

    def read_frame(self, stage: str, name: str) -> pl.DataFrame | None:
        """A stage's artefact that is a frame, or None.

        Raises:
            WorkspaceError: it is there and damaged.
        """
        path = self.path("stages", stage, name)
        return read_parquet(self.fs, path) if self.fs.exists(path) else None

    def _checkpoint_path(self, stage: str, bucket: int) -> str:
        return self.path("stages", stage, f"bucket={bucket:04d}.json")


def _difference(value: Any) -> str:
    """What a checkpoint has that this release does not know, or lacks."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    unknown = sorted(value.keys() - Checkpoint.__dataclass_fields__.keys())
    return f"unknown: {', '.join(unknown)}" if unknown else "it has no key"


def bucket_column(column: str, n_buckets: int) -> pl.Expr:
    """Bucket of every row by the hash in `column`."""
    return pl.col(column).map_elements(lambda value: bucket_of(value, n_buckets), return_dtype=pl.Int64)


def sort_unique(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """One row per id, the first of equals, sorted by id; a part that is both already is passed on as it is."""
    if not frame[key].is_sorted():
        frame = frame.sort(key, maintain_order=True)
    ids = frame[key]
    again = (ids == ids.shift()).fill_null(value=False)
    return frame.filter(~again) if again.any() else frame

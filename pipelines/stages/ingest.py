"""Stage ingest: source files become prompts, pairs and votes in buckets.

Two passes of the same shape: every slice of a source is read once into one staged file per table,
sorted by bucket; then every bucket gathers its rows from the staged files and removes duplicates. Between them
many slices are dealt into few files (`pipelines/runtime/shuffle.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import orjson
import polars as pl

from pipelines.runtime.beam_options import run
from pipelines.runtime.shuffle import STAGED_TABLES, CollectGroup, Group, groups_of, staged, write_staged
from pipelines.runtime.stage_class import Stage
from schemas.ids import canonical_json, hash_json
from schemas.tables import TABLES, Rejects, polars_schema
from transforms.sources.config import SOURCE_ADAPTER, PairsSource, PromptsSource
from transforms.sources.dedupe import dedupe_pairs, dedupe_prompts, dedupe_votes
from transforms.sources.read import check_rejects, read
from transforms.sources.slices import Slice, slices
from transforms.storage.files import read_json, read_parquet, read_where, write_atomic
from transforms.storage.workspace import Output, Workspace, bucket_column

_VERSION = 1
Source = PromptsSource | PairsSource


@dataclass(frozen=True)
class StagedSlice:
    """A slice, the source it belongs to and the key its staged files are named by."""

    source: Source
    slice: Slice
    key: str


@dataclass(frozen=True)
class ReadSlice:
    """The element function of the first pass: one slice to staged files; the manifest is written last."""

    workspace: Workspace

    def __call__(self, element: StagedSlice) -> str:
        """Read the slice unless its manifest says that it was."""
        workspace = self.workspace
        if _is_read(workspace, element.key):
            return "known"
        ingested = read(element.slice, element.source)
        frames = {name: getattr(ingested, name) for name in STAGED_TABLES}
        pairs = frames["pairs"].unique("pair_id")
        by_pair = pairs.select("pair_id", bucket=bucket_column("prompt_id", workspace.n_buckets))
        for name, frame in frames.items():
            if name == "votes":
                placed = frame.join(by_pair, on="pair_id", how="left", maintain_order="left")
            else:
                column = "reject_id" if name == "rejects" else "prompt_id"
                placed = frame.with_columns(bucket=bucket_column(column, workspace.n_buckets))
            if placed.height:
                path = staged(workspace, element.key, f"{name}.parquet")
                write_staged(workspace, path, placed, workspace.n_buckets)
        summary = {
            "tables": [name for name, frame in frames.items() if frame.height],
            "rows_in": ingested.rows_in,
            "rows_kept": ingested.rows_kept,
        }
        write_atomic(workspace.fs, staged(workspace, element.key, "json"), canonical_json(summary))
        return "read"


@dataclass(frozen=True)
class Ingest(Stage):
    """Every source's rows, in buckets, without duplicates."""

    name: ClassVar[str] = "ingest"

    @cached_property
    def staged(self) -> list[StagedSlice]:
        """All slices of all sources, in a fixed order."""
        found = []
        for settings in self.recipe.sources:
            source = SOURCE_ADAPTER.validate_python(settings)
            if self.limit is not None:
                source = source.model_copy(update={"limit": min(self.limit, source.limit or self.limit)})
            scratch = self.base_dir if source.dataset is None else self.workspace.local_path("scratch")
            for piece in slices(source, self.base_dir, scratch):
                key = hash_json([_VERSION, source.identity, piece.fingerprint, self.workspace.n_buckets])
                found.append(StagedSlice(source, piece, key))
        return found

    @cached_property
    def identity(self) -> Any:
        """The slices by key: what they hold and how they are read."""
        return [element.key for element in self.staged]

    def refresh(self) -> None:
        """Keep what each source holds, under the key of the checkpoints that are made of it."""
        name = _inputs(self.key(0))
        if self.workspace.read_artefact(self.name, name) is None:
            read: dict[str, list[Any]] = {}
            for element in self.staged:
                source = element.source
                read.setdefault(source.name, [source.identity]).append(element.slice.fingerprint)
            prints = {source: hash_json(what) for source, what in read.items()}
            self.workspace.write_artefact(self.name, name, canonical_json(prints))

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """First pass: read every slice that is not staged yet; refuse a source with too many bad rows."""
        apart = [group for group in self.groups if group.files(self.workspace) is None]
        dealt = {key for group in apart for key in group.slices}
        missing = [e for e in self.staged if not _is_read(self.workspace, e.key, not self.groups or e.key in dealt)]
        if missing:
            run(ReadSlice(self.workspace), missing, self.flags)
        self._check_rejects()
        if apart:
            run(CollectGroup(self.workspace), apart, self.flags)
        for group in self.groups:
            group.forget_slices(self.workspace)
        yield self

    @cached_property
    def groups(self) -> list[Group]:
        """Slices that are dealt into files together; none where there are few."""
        return groups_of([element.key for element in self.staged], self.workspace.n_buckets)

    def process(self, bucket: int) -> Output:
        """A bucket's rows from all slices, deduplicated."""
        frames = {name: self._gather(name, bucket) for name in STAGED_TABLES}
        prompts, pairs = dedupe_prompts(frames["prompts"]), dedupe_pairs(frames["pairs"])
        votes = dedupe_votes(frames["votes"])
        return Output(
            {
                "prompts": prompts.rows,
                "pairs": pairs.rows,
                "votes": votes,
                "rejects": pl.concat([frames["rejects"], prompts.rejects, pairs.rejects]),
            },
            rows_in=sum(frames[name].height for name in ("prompts", "pairs", "rejects")),
            rows_out=prompts.rows.height + pairs.rows.height,
            counts={"prompts": prompts.rows.height, "pairs": pairs.rows.height, "votes": votes.height},
        )

    @cached_property
    def _manifests(self) -> dict[str, Any]:
        fs = self.workspace.fs
        return {e.key: read_json(fs, staged(self.workspace, e.key, "json")) for e in self.staged}

    @cached_property
    def _group_files(self) -> list[dict[tuple[str, int], str]]:
        return [group.files(self.workspace) or {} for group in self.groups]

    def _gather(self, table: str, bucket: int) -> pl.DataFrame:
        workspace = self.workspace
        if self.groups:
            at = bucket // self.groups[0].width
            paths = [files[table, at] for files in self._group_files if (table, at) in files]
        else:
            paths = [
                staged(workspace, element.key, f"{table}.parquet")
                for element in self.staged
                if table in self._manifests[element.key]["tables"]
            ]
        return read_where(workspace.fs, paths, "bucket", bucket, bucket + 1, polars_schema(TABLES[table]))

    def _check_rejects(self) -> None:
        for name in dict.fromkeys(element.source.name for element in self.staged):
            elements = [element for element in self.staged if element.source.name == name]
            manifests = [self._manifests[element.key] for element in elements]
            rejects = [
                read_parquet(self.workspace.fs, staged(self.workspace, element.key, "rejects.parquet"))
                for element, manifest in zip(elements, manifests, strict=True)
                if "rejects" in manifest["tables"]
            ]
            check_rejects(
                elements[0].source,
                sum(manifest["rows_in"] for manifest in manifests),
                sum(manifest["rows_kept"] for manifest in manifests),
                pl.concat(rejects) if rejects else pl.DataFrame(schema=polars_schema(Rejects)),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_manifests", "_group_files")}


def inputs_read(workspace: Workspace) -> dict[str, str]:
    """Source -> fingerprint of the rows and settings that the workspace's ingested tables were made of."""
    found: dict[str, set[str]] = {}
    for key in {checkpoint.key for checkpoint in workspace.checkpoints(Ingest.name).values()}:
        for source, print_ in orjson.loads(workspace.read_artefact(Ingest.name, _inputs(key)) or b"{}").items():
            found.setdefault(source, set()).add(print_)
    # Several where an ingest broke off between buckets.
    return {name: next(iter(p)) if len(p) == 1 else hash_json(sorted(p)) for name, p in sorted(found.items())}


def _inputs(key: str) -> str:
    return f"inputs/{key}.json"


def _is_read(workspace: Workspace, key: str, whole: bool = True) -> bool:
    """Whether a slice is staged: `whole`, or what is counted of it, where its rows are in a group's files."""
    manifest = read_json(workspace.fs, staged(workspace, key, "json"))
    return manifest is not None and all(
        workspace.fs.exists(staged(workspace, key, f"{table}.parquet"))
        for table in manifest["tables"]
        if whole or table == "rejects"
    )

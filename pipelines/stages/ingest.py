"""Stage ingest: source files become prompts, pairs and votes in buckets.

Two passes of the same shape: every slice of a source is read once into one staged file per table,
sorted by bucket; then every bucket gathers its rows from the staged files and removes duplicates. Between them
many slices are dealt into few files (`pipelines/runtime/shuffle.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import orjson
import polars as pl

from pipelines.runtime.job import bucket_key
from pipelines.runtime.shuffle import STAGED_TABLES, Group, deal, groups_of, staged, write_staged
from pipelines.runtime.stage import Artefacts, Inputs, Pass, PerBucket, Run, Stage
from pipelines.runtime.summary import Summary
from schemas.errors import WorkspaceError
from schemas.ids import canonical_json, hash_json
from schemas.tables import TABLES, Rejects, polars_schema
from transforms.sources.config import SOURCE_ADAPTER, PairsSource, PromptsSource
from transforms.sources.dedupe import dedupe_pairs, dedupe_prompts, dedupe_votes
from transforms.sources.read import check_rejects, read
from transforms.sources.slices import Slice, slices
from transforms.storage.files import read_json, read_parquet, read_where, write_atomic
from transforms.storage.workspace import Output, Workspace, bucket_column

_VERSION = 1
_COUNTED = ("prompts", "pairs", "rejects")  # tables whose rows are rows in; votes come on top
Source = PromptsSource | PairsSource


class StagedSlice(NamedTuple):
    """A slice, the source it belongs to and the key its staged files are named by."""

    source: Source
    slice: Slice
    key: str


@dataclass(frozen=True)
class Slices:
    """All slices of all sources, in a fixed order.

    Attributes:
        groups: slices that are dealt into files together; none where there are few.
    """

    workspace: Workspace
    elements: tuple[StagedSlice, ...]
    groups: tuple[Group, ...]

    @property
    def identity(self) -> list[str]:
        """The slices by key: what they hold and how they are read."""
        return [element.key for element in self.elements]

    @cached_property
    def manifests(self) -> dict[str, Any]:
        """What was counted of every slice, by its key; read once, when all slices are staged."""
        fs = self.workspace.fs
        return {e.key: read_json(fs, staged(self.workspace, e.key, "json")) for e in self.elements}

    @property
    def were_counted(self) -> bool:
        """Whether this run has looked into the manifests; one with nothing to do does not."""
        return "manifests" in vars(self)

    @cached_property
    def undealt(self) -> list[Group]:
        """The groups whose slices were not dealt into files when the run began."""
        return [group for group in self.groups if group.files(self.workspace) is None]

    @cached_property
    def group_files(self) -> list[dict[tuple[str, int], str]]:
        """Every group's files by table and range of buckets; read once, when all groups are dealt."""
        return [group.files(self.workspace) or {} for group in self.groups]


def _observe(run: Run) -> tuple[StagedSlice, ...]:
    """The slices; what each source holds is kept under the key of the checkpoints that are made of it."""
    elements: list[StagedSlice] = []
    prints: dict[str, str] = {}
    for settings in run.recipe.sources:
        source = SOURCE_ADAPTER.validate_python(settings)
        if run.limit is not None:
            source = source.model_copy(update={"limit": min(run.limit, source.limit or run.limit)})
        scratch = run.folder if source.dataset is None else run.workspace.local_path("scratch")
        pieces = slices(source, run.folder, scratch)
        for piece in pieces:
            key = hash_json([_VERSION, source.identity, piece.fingerprint, run.workspace.n_buckets])
            elements.append(StagedSlice(source, piece, key))
        prints[source.name] = hash_json([source.identity, *(piece.fingerprint for piece in pieces)])
    setup = _slices(run.workspace, tuple(elements))
    name = _inputs(bucket_key(INGEST, setup.identity, {}))
    if run.workspace.read_artefact("ingest", name) is None:
        run.workspace.write_artefact("ingest", name, canonical_json(prints))
    return setup.elements


def _slices(workspace: Workspace, elements: tuple[StagedSlice, ...]) -> Slices:
    return Slices(workspace, elements, tuple(groups_of([element.key for element in elements], workspace.n_buckets)))


def _setup(run: Run) -> Slices:
    return _slices(run.workspace, run.observed)


def _unread(run: Run, setup: Slices) -> list[StagedSlice]:
    """The slices whose rows are neither staged nor in a group's files."""
    undealt = {key for group in setup.undealt for key in group.slices}
    return [
        element
        for element in setup.elements
        if not _is_read(run.workspace, element.key, whole=not setup.groups or element.key in undealt)
    ]


def _read_slice(run: Run, _: Slices, element: StagedSlice) -> None:
    """One slice to one staged file per table, sorted by bucket; the manifest is written last."""
    workspace = run.workspace
    if _is_read(workspace, element.key):
        return
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
        "rows": sum(frames[name].height for name in _COUNTED),
        "rows_in": ingested.rows_in,
        "rows_kept": ingested.rows_kept,
    }
    write_atomic(workspace.fs, staged(workspace, element.key, "json"), canonical_json(summary))


def _check_rejects(run: Run, setup: Slices) -> None:
    """Refuse a source with too many bad rows.

    Raises:
        DataError: with the first of them.
    """
    manifests = setup.manifests
    for name in dict.fromkeys(element.source.name for element in setup.elements):
        elements = [element for element in setup.elements if element.source.name == name]
        rejects = [
            read_parquet(run.workspace.fs, staged(run.workspace, element.key, "rejects.parquet"))
            for element in elements
            if "rejects" in manifests[element.key]["tables"]
        ]
        check_rejects(
            elements[0].source,
            sum(manifests[element.key]["rows_in"] for element in elements),
            sum(manifests[element.key]["rows_kept"] for element in elements),
            pl.concat(rejects) if rejects else pl.DataFrame(schema=polars_schema(Rejects)),
        )


def _undealt(_: Run, setup: Slices) -> list[Group]:
    return setup.undealt


def _deal(run: Run, _: Slices, group: Group) -> None:
    deal(run.workspace, group)


def _forget_slices(run: Run, setup: Slices) -> None:
    for group in setup.groups:
        group.forget_slices(run.workspace)


def gathered(setup: Slices, inputs: Inputs, _: Artefacts) -> Output:
    """A bucket's rows from all slices, deduplicated."""
    paths = _group_paths(setup, inputs.bucket) if setup.groups else _slice_paths(setup)
    fs, bucket = setup.workspace.fs, inputs.bucket
    return deduplicated(
        {
            table: read_where(fs, paths[table], "bucket", bucket, bucket + 1, polars_schema(TABLES[table]))
            for table in STAGED_TABLES
        }
    )


def _group_paths(setup: Slices, bucket: int) -> dict[str, list[str]]:
    at = bucket // setup.groups[0].width
    return {table: [files[table, at] for files in setup.group_files if (table, at) in files] for table in STAGED_TABLES}


def _slice_paths(setup: Slices) -> dict[str, list[str]]:
    manifests = setup.manifests
    return {
        table: [
            staged(setup.workspace, element.key, f"{table}.parquet")
            for element in setup.elements
            if table in manifests[element.key]["tables"]
        ]
        for table in STAGED_TABLES
    }


def deduplicated(frames: Mapping[str, pl.DataFrame]) -> Output:
    """A bucket's rows without those that occur again.

    Args:
        frames: rows of every table of `STAGED_TABLES`, of all slices.
    """
    prompts, pairs = dedupe_prompts(frames["prompts"]), dedupe_pairs(frames["pairs"])
    votes = dedupe_votes(frames["votes"])
    return Output(
        {
            "prompts": prompts.rows,
            "pairs": pairs.rows,
            "votes": votes,
            "rejects": pl.concat([frames["rejects"], prompts.rejects, pairs.rejects]),
        },
        rows_in=sum(frames[name].height for name in _COUNTED),
        rows_out=prompts.rows.height + pairs.rows.height,
        counts={"prompts": prompts.rows.height, "pairs": pairs.rows.height, "votes": votes.height},
    )


def _check(_: Run, setup: Slices, summary: Summary) -> None:
    """Compare the rows that were read from the sources with those that went into the buckets.

    Raises:
        WorkspaceError: they differ, so rows were lost or taken twice between the two passes.
    """
    if not setup.were_counted:
        return
    manifests = setup.manifests.values()
    if all("rows" in manifest for manifest in manifests):  # those of earlier releases do not say
        read = sum(manifest["rows"] for manifest in manifests)
        if read != summary.rows_in:
            raise WorkspaceError(
                f"stage ingest: {read} rows were read from the sources and {summary.rows_in} went into the buckets: "
                "rows were lost between them; please report this as a bug"
            )


INGEST = Stage(
    name="ingest",
    version=1,
    reads={},
    setup=_setup,
    observe=_observe,
    steps=(Pass(_unread, _read_slice, _check_rejects), Pass(_undealt, _deal, _forget_slices)),
    work=PerBucket(gathered),
    check=_check,
)


def inputs_read(workspace: Workspace) -> dict[str, str]:
    """Source -> fingerprint of the rows and settings that the workspace's ingested tables were made of."""
    prints: dict[str, set[str]] = {}
    for key in {checkpoint.key for checkpoint in workspace.checkpoints("ingest").values()}:
        for source, print_ in orjson.loads(workspace.read_artefact("ingest", _inputs(key)) or b"{}").items():
            prints.setdefault(source, set()).add(print_)
    # Several where an ingest broke off between buckets.
    return {name: next(iter(p)) if len(p) == 1 else hash_json(sorted(p)) for name, p in sorted(prints.items())}


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

"""Stage materialise: verdicts become the rows of the next dataset version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from pipelines.runtime.stage import (
    PAIR_STAGES,
    VOTE_STAGES,
    Artefacts,
    BucketPass,
    Fit,
    Inputs,
    PerBucket,
    Run,
    Stage,
    artefact_frame,
    pass_name,
)
from transforms.publish.files import Bucket
from transforms.publish.read import Version
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import SplitsConfig, assign_parts, key_columns, prompt_keys, remembered
from transforms.publish.version import latest_version
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output, Workspace, bucket_column

REJECT_STAGES = ("ingest", "evolve", "screen", "generate", "clean", "pull", "materialise")


class Materials(NamedTuple):
    """How rows are made and prompts are split.

    Attributes:
        parent_splits: file name -> hash of what the version before remembers of its splits, which is obeyed.
    """

    splits: SplitsConfig
    rows: RowsConfig
    seed: int
    parent_splits: Mapping[str, str]

    @property
    def identity(self) -> Any:
        """Everything the splits and rows depend on."""
        configs = [config.model_dump(mode="json", exclude_defaults=True) for config in (self.splits, self.rows)]
        return [*configs, self.seed, self.parent_splits]


def _setup(run: Run) -> Materials:
    section = run.recipe.materialise
    splits, rows = SplitsConfig.model_validate(section.splits), RowsConfig.model_validate(section.rows)
    return Materials(splits, rows, run.recipe.seed, run.observed)


def _observe(run: Run) -> dict[str, str]:
    """The splits of the version before."""
    parent = parent_version(run)
    files = {} if parent is None else parent.manifest.files
    return {name: entry.sha256 for name, entry in files.items() if name.startswith("evidence/splits-")}


def parent_version(run: Run) -> Version | None:
    """The latest version, from which the next one is made."""
    return latest_version(run.workspace.datasets, run.recipe.dataset)


def split_keys(setup: Materials, inputs: Inputs, _: Artefacts) -> pl.DataFrame:
    """What the splits of the bucket's prompts depend on."""
    pairs = inputs.read("pairs", key_columns(setup.splits))
    return prompt_keys(pairs, inputs.read("verdicts", ("action",)), setup.splits)


def _splits_names(run: Run, _: Materials) -> list[str]:
    return [_splits_name(bucket) for bucket in run.workspace.buckets]


def _assign_splits(run: Run, setup: Materials, artefacts: Artefacts) -> Iterator[tuple[str, bytes]]:
    """Every prompt's split, bucket by bucket: of the prompts there are and of those that have left."""
    held = _deal_memory(run, artefacts)
    parts = assign_parts(
        lambda: (_nodes(artefacts, bucket, names) for bucket, names in enumerate(held)), setup.splits, setup.seed
    )
    for bucket, part in enumerate(parts):
        yield _splits_name(bucket), parquet_bytes(part)


def _deal_memory(run: Run, artefacts: Artefacts) -> list[list[str]]:
    """What the parent remembers of each bucket's prompts, as names of artefacts."""
    held: list[list[str]] = [[] for _ in run.workspace.buckets]
    parent = parent_version(run)
    for i, file in enumerate([] if parent is None else parent.files("splits")):
        assert parent is not None
        memory = parent.read(file).with_columns(bucket=bucket_column("prompt_id", run.workspace.n_buckets))
        for (bucket,), own in memory.partition_by("bucket", as_dict=True, include_key=False).items():
            held[bucket].append(f"memory-{bucket:04d}-{i:05d}.parquet")
            artefacts[held[bucket][-1]] = parquet_bytes(own)
    return held


def _nodes(artefacts: Artefacts, bucket: int, memory: Sequence[str]) -> pl.DataFrame:
    known = [artefact_frame(artefacts, name) for name in memory]
    return remembered(artefact_frame(artefacts, pass_name(bucket)), pl.concat(known) if known else None)


def _splits_name(bucket: int) -> str:
    return f"splits-{bucket:04d}.parquet"


def split_rows(setup: Materials, inputs: Inputs, artefacts: Artefacts) -> Output:
    """The bucket's dataset rows, and what is left out with the reason."""
    pairs = inputs.read("pairs")
    if not pairs.height:
        return Output()
    splits = artefact_frame(artefacts, _splits_name(inputs.bucket))
    rows, rejects = dataset_rows(pairs, inputs.read("verdicts"), splits, setup.rows)
    return Output({"rows": rows, "rejects": rejects}, rows_in=pairs.height, rows_out=rows.height)


MATERIALISE = Stage(
    name="materialise",
    version=3,
    reads={"pairs": PAIR_STAGES, "verdicts": ("fuse",)},
    setup=_setup,
    observe=_observe,
    steps=(BucketPass(split_keys), Fit(_splits_names, _assign_splits)),
    work=PerBucket(split_rows),
    conserves="pairs",
)


def version_splits(workspace: Workspace, artefacts: Artefacts) -> Iterator[pl.DataFrame]:
    """The splits of every bucket's prompts, and of those that have left it."""
    for bucket in workspace.buckets:
        yield artefact_frame(artefacts, _splits_name(bucket))


def version_buckets(workspace: Workspace) -> Iterator[Bucket]:
    """The content of the version, one bucket at a time."""
    for bucket in workspace.buckets:
        yield Bucket(
            rows=workspace.read("rows", bucket, ("materialise",)),
            rejects=workspace.read("rejects", bucket, REJECT_STAGES),
            pairs=workspace.read("pairs", bucket, PAIR_STAGES),
            votes=workspace.read("votes", bucket, VOTE_STAGES),
            verdicts=workspace.read("verdicts", bucket, ("fuse",)),
        )

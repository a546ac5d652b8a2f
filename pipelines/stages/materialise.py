"""Stage materialise: verdicts become the rows of the next dataset version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from pipelines.runtime.fitted_stage import FittedStage, pass_name
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES
from pipelines.runtime.stage_class import Reads, Stage
from schemas.errors import WorkspaceError
from transforms.publish.files import Bucket
from transforms.publish.read import Version
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import KEYS_SCHEMA, SplitsConfig, assign_parts, key_columns, prompt_keys, remembered
from transforms.publish.version import latest_version
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output, bucket_column

REJECT_STAGES = ("ingest", "evolve", "screen", "generate", "clean", "pull", "materialise")


@dataclass(frozen=True)
class Materialise(FittedStage):
    """Dataset rows and their splits, bucket by bucket; `pipelines/publish/publication.py` makes the version of them."""

    name: ClassVar[str] = "materialise"
    version: ClassVar[int] = 3
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES), ("verdicts", ("fuse",)))

    @property
    def datasets(self) -> str:
        """Where versions live."""
        return self.workspace.datasets

    @property
    def splits_config(self) -> SplitsConfig:
        """How prompts are split."""
        return SplitsConfig.model_validate(self.recipe.materialise.splits)

    @cached_property
    def parent(self) -> Version | None:
        """The version before, whose splits are obeyed."""
        return latest_version(self.datasets, self.recipe.dataset)

    @property
    def rows_config(self) -> RowsConfig:
        """The recipe's section `materialise.rows`."""
        return RowsConfig.model_validate(self.recipe.materialise.rows)

    @property
    def fit_identity(self) -> Any:
        """Everything the splits depend on."""
        files = {} if self.parent is None else self.parent.manifest.files
        splits = {name: entry.sha256 for name, entry in files.items() if name.startswith("evidence/splits-")}
        config = self.splits_config.model_dump(mode="json", exclude_defaults=True)
        rows = self.rows_config.model_dump(mode="json", exclude_defaults=True)
        return [config, rows, self.recipe.seed, splits]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Assign every prompt its split."""
        self._assign()
        yield self

    def splits(self) -> Iterator[pl.DataFrame]:
        """The splits of every bucket's prompts, and of those that have left it."""
        self._assign()
        for bucket in self.workspace.buckets:
            yield self._splits_of(bucket)

    def _assign(self) -> None:
        """Split the prompts, once per fit."""
        if all(self.has(_splits_name(bucket)) for bucket in self.workspace.buckets):
            return
        self.run_first_pass()
        held = list(enumerate(self._deal_memory()))
        parts = assign_parts(lambda: (self._nodes(*own) for own in held), self.splits_config, self.recipe.seed)
        for bucket, part in enumerate(parts):
            self.store(_splits_name(bucket), parquet_bytes(part))

    def _deal_memory(self) -> list[list[str]]:
        """What the parent remembers of each bucket's prompts, as names of artefacts."""
        held: list[list[str]] = [[] for _ in self.workspace.buckets]
        parent = self.parent
        if parent is None:
            return held
        for i, file in enumerate(parent.files("splits")):
            memory = parent.read(file).with_columns(bucket=bucket_column("prompt_id", self.workspace.n_buckets))
            for (bucket,), own in memory.partition_by("bucket", as_dict=True, include_key=False).items():
                held[bucket].append(f"memory-{bucket:04d}-{i:05d}.parquet")
                self.store(held[bucket][-1], parquet_bytes(own))
        return held

    def _nodes(self, bucket: int, memory: Sequence[str]) -> pl.DataFrame:
        keys = self.frame(pass_name(bucket))
        known = [frame for name in memory if (frame := self.frame(name)) is not None]
        return remembered(
            pl.DataFrame(schema=KEYS_SCHEMA) if keys is None else keys, pl.concat(known) if known else None
        )

    def _splits_of(self, bucket: int) -> pl.DataFrame:
        splits = self.frame(_splits_name(bucket))
        if splits is None:
            raise WorkspaceError(f"bucket {bucket} has no splits; run materialise again")
        return splits

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """What the splits of the bucket's prompts depend on."""
        pairs = self.workspace.read("pairs", bucket, PAIR_STAGES, key_columns(self.splits_config))
        verdicts = self.workspace.read("verdicts", bucket, ("fuse",), ("action",))
        return prompt_keys(pairs, verdicts, self.splits_config)

    def process(self, bucket: int) -> Output:
        """The bucket's dataset rows, and what is left out with the reason."""
        pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
        if not pairs.height:
            return Output()
        verdicts = self.workspace.read("verdicts", bucket, ("fuse",))
        config = self.rows_config
        rows, rejects = dataset_rows(pairs, verdicts, self._splits_of(bucket), config)
        return Output({"rows": rows, "rejects": rejects}, rows_in=pairs.height, rows_out=rows.height)

    def buckets(self) -> Iterator[Bucket]:
        """The content of the version, one bucket at a time."""
        for bucket in self.workspace.buckets:
            pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
            yield Bucket(
                rows=self.workspace.read("rows", bucket, ("materialise",)),
                rejects=self.workspace.read("rejects", bucket, REJECT_STAGES),
                pairs=pairs,
                votes=self.workspace.read("votes", bucket, VOTE_STAGES),
                verdicts=self.workspace.read("verdicts", bucket, ("fuse",)),
            )


def _splits_name(bucket: int) -> str:
    return f"splits-{bucket:04d}.parquet"

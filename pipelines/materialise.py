"""Stage materialise: verdicts become the rows of the next dataset version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from pipelines.fitted import FittedStage
from pipelines.stage import PAIR_STAGES, VOTE_STAGES, Reads, Stage
from schemas.errors import WorkspaceError
from transforms.publish.files import Bucket
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import SplitsConfig, assign_splits, key_columns, prompt_keys
from transforms.publish.version import split_memory
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output

REJECT_STAGES = ("ingest", "evolve", "screen", "generate", "clean", "pull", "materialise")


@dataclass(frozen=True)
class Materialise(FittedStage):
    """Dataset rows and their splits, bucket by bucket; `pipelines/publish.py` makes the version of them."""

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
    def memory(self) -> tuple[int | None, pl.DataFrame | None]:
        """The parent version and its splits, which are obeyed."""
        return split_memory(self.datasets, self.recipe.dataset)

    @property
    def fit_identity(self) -> Any:
        """Everything the splits depend on."""
        remembered = self.memory[1]
        splits = [] if remembered is None else remembered.select("prompt_id", "split").sort("prompt_id").rows()
        return [self.splits_config.model_dump(mode="json"), self.recipe.materialise.rows, self.recipe.seed, splits]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Assign every prompt its split."""
        self.splits()
        yield self

    def splits(self) -> pl.DataFrame:
        """The split of every prompt, computed once per fit."""
        known = self.frame("splits.parquet")
        if known is None:
            keys = list(self.gathered())
            known = assign_splits(pl.concat(keys), self.splits_config, self.recipe.seed, self.memory[1])
            assigned = known.select("prompt_id", "split", "reason")
            for bucket, own in zip(self.workspace.buckets, keys, strict=True):
                self.store(_splits_name(bucket), parquet_bytes(assigned.join(own, on="prompt_id", how="semi")))
            self.store("splits.parquet", parquet_bytes(known))  # last: it says that the buckets' are there
        return known

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
        config = RowsConfig.model_validate(self.recipe.materialise.rows)
        splits = self.frame(_splits_name(bucket))
        if splits is None:
            raise WorkspaceError(f"bucket {bucket} has no splits; run materialise again")
        rows, rejects = dataset_rows(pairs, verdicts, splits, config)
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

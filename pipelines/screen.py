"""Stage screen: the recipe's hygiene over prompts, before anything is paid for making pairs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipelines.evolve import Evolve, evolved_from
from pipelines.hygiene import DROPS_FILE, HygieneStage
from pipelines.stage import Reads, Stage
from schemas.tables import Prompts, Rejects, conform, rows_frame
from transforms.hygiene.clean import clean_prompts, duplicate_detail, reject
from transforms.hygiene.duplicates import prompt_keys, resolve
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output

_RAW = ("ingest", "evolve")
_NEVER = 2.0  # a similarity that no two texts reach: only equal ones are duplicates


@dataclass(frozen=True)
class Screen(HygieneStage):
    """The prompts that generators get: no near-duplicates, none from a benchmark, nothing forbidden.

    Of prompts that are alike a given one stays before an evolved one, and then the one with the smallest id.
    """

    name: ClassVar[str] = "screen"
    version: ClassVar[int] = 2
    reads: ClassVar[Reads] = (("prompts", _RAW),)

    @property
    def is_idle(self) -> bool:
        """Whether every bucket's parts stay as they are."""
        return not self.recipe.hygiene and not self._evolves

    @property
    def is_global(self) -> bool:
        """Evolved prompts lie in their seeds' buckets, so equal ones may lie in two."""
        return self.config.duplicates is not None or self._evolves

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Find duplicates over all buckets."""
        if self.is_global and self.artefact(DROPS_FILE) is None:
            threshold = _NEVER if self.config.duplicates is None else self.config.duplicates.threshold
            self.store(DROPS_FILE, parquet_bytes(resolve(pl.concat(list(self.gathered())), threshold)))
        yield self

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """The keys that duplicates share."""
        rows = self._records(bucket)
        return prompt_keys(rows.with_columns(prompt_id="record"))

    def process(self, bucket: int) -> Output:
        """The bucket's prompts that stay; what goes is rejected with its reason."""
        if self.is_idle:
            parts = {"prompts": self.workspace.parts("prompts", bucket, _RAW)}
            n = self.workspace.read("prompts", bucket, _RAW, []).height
            return Output(rows_in=n, rows_out=n, counts={"prompts": n}, parts=parts)
        rows = self._records(bucket)
        drops = self.frame(DROPS_FILE) if self.is_global else None
        going = {} if drops is None else {row["id"]: row for row in drops.to_dicts()}
        left, repeated = [], []
        for row in rows.to_dicts():
            found = going.get(row.pop("record"))
            if found is None:
                left.append(row)
            else:
                detail = duplicate_detail(_prompt_of(found["kept_id"]), found["similarity"])
                repeated.append(reject(found["reason"], detail, row["prompt_id"], row, self.config.personal))
        kept, rejects = clean_prompts(
            rows_frame(left, Prompts), self.config, self.embed if self.needs_vectors else None
        )
        unique = kept.unique("prompt_id", keep="first", maintain_order=True)
        return Output(
            {"prompts": unique, "rejects": pl.concat([conform(rows_frame(repeated, Rejects), Rejects), rejects])},
            rows_in=rows.height,
            rows_out=kept.height,
            counts={"prompts": unique.height},
        )

    @property
    def _evolves(self) -> bool:
        return bool(Evolve(self.workspace, self.recipe, self.base_dir).uses)

    def _records(self, bucket: int) -> pl.DataFrame:
        """Given and evolved prompts; `record` orders them and tells equal texts from two seeds apart."""
        frames = []
        for rank, stage in enumerate(_RAW):
            rows = self.workspace.read("prompts", bucket, (stage,))
            origins = pl.Series([evolved_from(meta) for meta in rows["meta"]], dtype=pl.String)
            record = pl.format("{} {} {}", pl.lit(rank), "prompt_id", origins)
            frames.append(rows.with_columns(record=record))
        return pl.concat(frames)


def _prompt_of(record: str) -> str:
    return record.split(" ")[1]

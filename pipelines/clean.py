"""Stage clean: the hygiene of the recipe, over ingested and generated pairs alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipelines.hygiene import DROPS_FILE, HygieneStage
from pipelines.stage import Reads, Stage
from schemas.messages import text_of
from schemas.tables import Rejects, conform
from transforms.hygiene.clean import clean, drop
from transforms.hygiene.duplicates import DROPS, pair_keys, resolve
from transforms.hygiene.masking import votes_on_masked
from transforms.hygiene.semantic import semantic_duplicates
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output

_RAW = ("ingest", "generate")


@dataclass(frozen=True)
class Clean(HygieneStage):
    """The pairs that stay."""

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 2
    reads: ClassVar[Reads] = (("pairs", _RAW), ("votes", _RAW))

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Find duplicates over all buckets."""
        config = self.config.duplicates
        if config is not None and self.artefact(DROPS_FILE) is None:
            keys = pl.concat(list(self.gathered()))
            drops = resolve(keys, config.threshold, config.other_prompt)
            if config.cosine is not None:
                drops = pl.concat([drops, self._semantic(drops, config.cosine)])
            self.store(DROPS_FILE, parquet_bytes(drops))
        yield self

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """The keys that duplicates share."""
        return pair_keys(self.workspace.read("pairs", bucket, _RAW))

    def process(self, bucket: int) -> Output:
        """The bucket's pairs that stay; what goes is rejected with its reason."""
        pairs = self.workspace.read("pairs", bucket, _RAW)
        if self.is_idle:
            parts = {"pairs": self.workspace.parts("pairs", bucket, _RAW)}
            return Output(rows_in=pairs.height, rows_out=pairs.height, counts={"pairs": pairs.height}, parts=parts)
        drops = self.frame(DROPS_FILE) if self.is_global else None
        named = pl.DataFrame(schema=DROPS) if drops is None else drops
        left, repeated = drop(pairs, named, "pair_id", self.config.personal)
        kept, rejects = clean(left, self.config, self.embed if self.needs_vectors else None)
        rejects = pl.concat([conform(repeated, Rejects), conform(rejects, Rejects)])
        votes = votes_on_masked(self.workspace.read("votes", bucket, _RAW), kept)
        unique = kept.unique("pair_id", keep="first", maintain_order=True)
        return Output(
            {"pairs": unique, "votes": votes, "rejects": rejects},
            rows_in=pairs.height,
            rows_out=kept.height,
            counts={"pairs": unique.height},
        )

    def _semantic(self, drops: pl.DataFrame, cosine: float) -> pl.DataFrame:
        """Pairs whose responses say what another pair's say, under the same prompt and context."""
        ids: list[str] = []
        texts: list[str] = []
        groups: list[str] = []
        for bucket in self.workspace.buckets:
            pairs = self.workspace.read("pairs", bucket, _RAW).join(drops, left_on="pair_id", right_on="id", how="anti")
            for row in pairs.iter_rows(named=True):
                ids.append(row["pair_id"])
                texts.append("\n".join(sorted(text_of(row[side]) for side in ("response_a", "response_b"))))
                groups.append(f"{row['prompt_id']} {row['context'] or ''}")
        if not ids:
            return pl.DataFrame(schema=DROPS)
        return semantic_duplicates(ids, self.embed(texts), cosine, groups).cast(pl.Schema(DROPS))

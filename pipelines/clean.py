"""Stage clean: the hygiene of the recipe, over ingested and generated pairs alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.fitted import FittedStage
from pipelines.stage import Reads, Stage
from schemas.messages import text_of
from schemas.tables import Rejects, conform
from transforms.hygiene.clean import clean, drop
from transforms.hygiene.config import HygieneConfig
from transforms.hygiene.duplicates import DROPS, pair_keys, resolve
from transforms.hygiene.masking import votes_on_masked
from transforms.hygiene.semantic import semantic_duplicates
from transforms.scorers._embedding import Embedder
from transforms.storage.files import parquet_bytes
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Output

_RAW = ("ingest", "generate")


@dataclass(frozen=True)
class Clean(FittedStage):
    """The pairs that stay. Without a `hygiene` section the parts of ingest and generate stay as they are."""

    name: ClassVar[str] = "clean"
    reads: ClassVar[Reads] = (("pairs", _RAW), ("votes", _RAW))

    @cached_property
    def config(self) -> HygieneConfig:
        """The recipe's hygiene."""
        return HygieneConfig.model_validate(self.recipe.hygiene)

    @property
    def is_global(self) -> bool:
        """Whether a bucket's outcome depends on the other buckets."""
        return self.config.duplicates is not None

    @property
    def fit_identity(self) -> Any:
        """The configuration."""
        return self.config.model_dump(mode="json")

    @property
    def identity(self) -> Any:
        """Where duplicates are searched, all inputs; else the configuration."""
        return self.fit_key if self.is_global else self.fit_identity

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Find duplicates over all buckets."""
        config = self.config.duplicates
        if config is not None and self.artefact("drops.parquet") is None:
            keys = pl.concat(list(self.gathered()))
            drops = resolve(keys, config.threshold, config.other_prompt)
            if config.cosine is not None:
                drops = pl.concat([drops, self._semantic(drops, config.cosine)])
            self.store("drops.parquet", parquet_bytes(drops))
        yield self

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """The keys that duplicates share."""
        return pair_keys(self.workspace.read("pairs", bucket, _RAW))

    def process(self, bucket: int) -> Output:
        """The bucket's pairs that stay; what goes is rejected with its reason."""
        pairs = self.workspace.read("pairs", bucket, _RAW)
        if not self.recipe.hygiene:
            parts = {"pairs": self.workspace.parts("pairs", bucket, _RAW)}
            return Output(rows_in=pairs.height, rows_out=pairs.height, counts={"pairs": pairs.height}, parts=parts)
        drops = self.frame("drops.parquet") if self.is_global else None
        left, repeated = drop(pairs, pl.DataFrame(schema=DROPS) if drops is None else drops, "pair_id")
        kept, rejects = clean(left, self.config, self._embed if self._needs_vectors else None)
        rejects = pl.concat([conform(repeated, Rejects), conform(rejects, Rejects)])
        votes = votes_on_masked(self.workspace.read("votes", bucket, _RAW), kept)
        unique = kept.unique("pair_id", keep="first", maintain_order=True)
        return Output(
            {"pairs": unique, "votes": votes, "rejects": rejects},
            rows_in=pairs.height,
            rows_out=kept.height,
            counts={"pairs": unique.height},
        )

    @property
    def _needs_vectors(self) -> bool:
        return self.config.decontamination is not None and self.config.decontamination.cosine is not None

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        cache = EmbeddingCache(self.workspace.path("tables", "embeddings"))
        vectors = Embedder().embed_memoised(texts, cache)
        return np.stack([vectors[text] for text in texts])

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
        return semantic_duplicates(ids, self._embed(texts), cosine, groups).cast(pl.Schema(DROPS))

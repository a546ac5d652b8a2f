"""Rule voter: the response closer to what was asked."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from schemas.messages import text_of
from transforms.plugins.kinds import Row
from transforms.plugins.registry import register
from transforms.scorers._relevance import lexical_relevance
from transforms.scorers._rules import SURFACE, Rule, RuleConfig, query_of
from transforms.scorers.base import Opinion, label_by_difference, vote_frame
from transforms.text.embedding import PACKAGED, Embedder, MemoryCache, VectorCache


@register("scorers", "relevance")
class Relevance(Rule):
    """Similarity of the response to the last user message: cosine of word counts, or of sentence embeddings."""

    class Config(RuleConfig):
        """Settings of `relevance`."""

        method: Literal["lexical", "embedding"] = Field("lexical", description="word counts or sentence embeddings")
        model: str = Field(PACKAGED, description="embedding model, as in bt_heads")
        tie_band: float = Field(0.02, ge=0.0, description="tie where the similarities differ by at most this")

    family: ClassVar[str | None] = SURFACE
    measures: ClassVar[str] = "How close the response is to the question in words or in meaning."
    config: Config

    def __init__(self, name: str, config: Config, seed: int) -> None:
        super().__init__(name, config, seed)
        self._embedder = Embedder(config.model)
        self._cache: VectorCache = MemoryCache()

    @property
    def identity(self) -> Any:
        """Everything that can change the votes."""
        if self.config.method == "lexical":
            return [
                *super().identity[:-1],
                {"method": "lexical", "tie_band": self.config.tie_band, "group": self.group},
            ]
        return [
            *super().identity[:-1],
            {"tie_band": self.config.tie_band, "group": self.group},
            self._embedder.identity,
        ]

    def use_cache(self, cache: VectorCache) -> None:
        """Keep embeddings in `cache` from now on."""
        self._cache = cache

    def score(self, response: str, row: Row) -> float | None:
        """Lexical relevance in [0, 1]."""
        return lexical_relevance(query_of(row), response)

    def votes(self, pairs: pl.DataFrame, model: bytes) -> pl.DataFrame:
        """One vote per pair."""
        if self.config.method == "lexical" or pairs.is_empty():
            return super().votes(pairs, model)
        rows = list(pairs.iter_rows(named=True))
        texts = [(query_of(row), text_of(row["response_a"]), text_of(row["response_b"])) for row in rows]
        vectors = self._embedder.embed_memoised(sorted({t for triple in texts for t in triple}), self._cache)
        opinions = []
        for row, (query, a, b) in zip(rows, texts, strict=True):
            score_a, score_b = (float(np.dot(vectors[query], vectors[text])) for text in (a, b))
            label = label_by_difference(score_a, score_b, self.config.tie_band)
            opinions.append(Opinion(row["pair_id"], label, score_a=score_a, score_b=score_b))
        return vote_frame(opinions, self.name, "rule", self.group)

"""Rule voter: the response closer to what was asked."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from schemas.messages import text_of
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers._relevance import lexical_relevance
from transforms.scorers.base import SURFACE, Opinion, Rule, RuleConfig, label_by_difference, query_of, vote_frame
from transforms.text.embedding import PACKAGED, Embedder


@register("relevance")
class Relevance(Rule):
    """Similarity of the response to the last user message: cosine of word counts, or of sentence embeddings."""

    class Config(RuleConfig):
        """Settings of `relevance`."""

        unhashed: ClassVar[frozenset[str]] = frozenset({"model"})  # the embedder's identity counts

        method: Literal["lexical", "embedding"] = Field("lexical", description="word counts or sentence embeddings")
        model: str = Field(PACKAGED, description="embedding model, as in bt_heads")
        tie_band: float = Field(0.02, ge=0.0, description="a tie if the similarities differ by at most this")

    family: ClassVar[str | None] = SURFACE
    measures: ClassVar[str] = "How close the response is to the question in words or in meaning."
    config: Config

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.config.model)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the votes; an embedder if one is asked."""
        own = super().identity
        return own if self.config.method == "lexical" else {**own, "embedder": self._embedder.identity}

    def score(self, response: str, row: Row) -> float | None:
        """Lexical relevance in [0, 1]."""
        return lexical_relevance(query_of(row), response)

    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
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

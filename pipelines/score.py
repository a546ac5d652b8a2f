"""Stage score: voters that need no LLM call, fitted on a sample, applied bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from pipelines.sample import sample
from pipelines.stage import ANSWER_STAGES, PAIR_STAGES, Reads, Stage
from schemas.ids import hash_json
from schemas.tables import Votes, polars_schema
from transforms.build import build_all
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Score(Stage):
    """Every scorer's votes on every pair."""

    name: ClassVar[str] = "score"
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES), ("votes", ANSWER_STAGES))

    @cached_property
    def scorers(self) -> list[Any]:
        """The recipe's scorers, sharing one embedding memo."""
        scorers = build_all("scorers", self.recipe.score.scorers, self.recipe.seed, {})
        for scorer in scorers:
            if hasattr(scorer, "use_cache"):
                scorer.use_cache(EmbeddingCache(self.workspace.fs, self.workspace.path("tables", "embeddings")))
        return scorers

    @cached_property
    def fit_key(self) -> str:
        """Hash of all a fitted scorer depends on."""
        section = self.recipe.score
        return hash_json([[s.identity for s in self.scorers], section.fit_pairs, self.input_parts()])

    @property
    def identity(self) -> Any:
        """The scorers and what they were fitted on."""
        return [[[s.name, s.identity] for s in self.scorers], self.fit_key if self.scorers else None]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Fit every scorer on the sample, unless the same fit is already stored."""
        missing = [
            scorer
            for scorer in self.scorers
            if self.workspace.read_artefact(self.name, self._artefact(scorer.name)) is None
        ]
        if missing:
            pairs, votes = sample(self.workspace, self.recipe.score.fit_pairs, ANSWER_STAGES)
            for scorer in missing:
                model = scorer.fit(pairs, votes)
                self.workspace.write_artefact(self.name, self._artefact(scorer.name), model)
        yield self

    def process(self, bucket: int) -> Output:
        """All scorers' votes on a bucket's pairs."""
        pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
        frames = [
            scorer.votes(pairs, self.workspace.read_artefact(self.name, self._artefact(scorer.name)) or b"")
            for scorer in self.scorers
            if pairs.height
        ]
        schema = polars_schema(Votes)
        votes = pl.concat([f.select(schema.names()) for f in frames]) if frames else pl.DataFrame(schema=schema)
        return Output(
            {"votes": votes}, rows_in=pairs.height, rows_out=pairs.height, counts={"votes": votes.height}
        )

    def _artefact(self, scorer: str) -> str:
        return f"{scorer}-{self.fit_key}.model"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("scorers",)}

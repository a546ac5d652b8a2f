"""Stage score: voters that need no LLM call, fitted on a sample, applied bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from pipelines.runtime.fitted_stage import FittedStage
from pipelines.runtime.sample import sample
from pipelines.runtime.stage import ANSWER_STAGES, PAIR_STAGES
from pipelines.runtime.stage_class import Reads, Stage
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.tables import Votes, polars_schema
from transforms.plugins.build import build
from transforms.scorers.base import Scorer
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Output

_ERRORS = ".errors"  # after a scorer's name: on how many pairs it failed


@dataclass(frozen=True)
class Score(FittedStage):
    """Every scorer's votes on every pair."""

    name: ClassVar[str] = "score"
    version: ClassVar[int] = 3
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES), ("votes", ANSWER_STAGES))

    @cached_property
    def scorers(self) -> list[Scorer]:
        """The recipe's scorers, sharing one embedding memo."""
        scorers = [build(Scorer, use, self.recipe.seed, self.base_dir) for use in self.recipe.score.scorers]
        for scorer in scorers:
            scorer.use_cache(EmbeddingCache(self.workspace.path("tables", "embeddings")))
        return scorers

    @property
    def fit_identity(self) -> Any:
        """The scorers and the size of the sample they are fitted on."""
        return [[[s.name, s.identity] for s in self.scorers], self.recipe.score.fit_pairs]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Fit every scorer on the sample, unless the same fit is already stored."""
        missing = [scorer for scorer in self.scorers if self.artefact(scorer.name) is None]
        if missing:
            pairs, votes = sample(self.workspace, self.recipe.score.fit_pairs, ANSWER_STAGES)
            for scorer in missing:
                self.store(scorer.name, scorer.fit(pairs, votes))
        self.make_current()
        yield self

    def process(self, bucket: int) -> Output:
        """All scorers' votes on a bucket's pairs."""
        schema = polars_schema(Votes)
        pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
        frames = [pl.DataFrame(schema=schema)]
        if pairs.height:
            answers = self._answers(bucket)
            for scorer in self.scorers:
                found = scorer.votes(pairs, self.artefact(scorer.name) or b"", answers if scorer.reads_votes else None)
                frames.append(found.select(schema.names()))
        votes = pl.concat(frames)
        transient = pl.col("aspects").str.json_path_match("$.transient") == "true"
        failed = votes.filter(pl.col("label") == "error")
        counts = {"votes": votes.height} | ({"error": failed.height} if failed.height else {})
        for voter, n in failed["voter"].value_counts().iter_rows():
            counts[f"{voter}{_ERRORS}"] = n
        return Output(
            {"votes": votes},
            rows_in=pairs.height,
            rows_out=pairs.height,
            counts=counts,
            complete=failed.filter(transient).is_empty(),
        )

    def check(self, summary: Summary) -> None:
        """End the run where a scorer failed on too many pairs.

        Raises:
            EngineError: with the scorer, counts and an example.
        """
        most, pairs = self.recipe.score.max_failed_share, summary.rows_in
        failed = {name: n for name, n in summary.counts.items() if name.endswith(_ERRORS) and n > most * pairs}
        if failed:
            self.reopen(lambda checkpoint: not failed.keys().isdisjoint(checkpoint.counts))
            scorers = {name.removesuffix(_ERRORS): n for name, n in failed.items()}
            said = "; ".join(f"{name} on {n:,}, for example: {self._example(name)}" for name, n in scorers.items())
            raise EngineError(
                f"stage score: of {pairs:,} pairs, more than max_failed_share ({most:.1%}) allows got no vote: {said}. "
                "Every reward is kept: run again, and only these are asked."
            )

    def _example(self, voter: str) -> str:
        for bucket in self.workspace.buckets:
            votes = self.workspace.read("votes", bucket, (self.name,), ("voter", "label", "detail"))
            failed = votes.filter(pl.col("voter") == voter, pl.col("label") == "error", pl.col("detail").is_not_null())
            if failed.height:
                return str(failed["detail"][0])
        return "no reason was given"

    def _answers(self, bucket: int) -> pl.DataFrame | None:
        """What others said of the bucket's pairs, if a scorer wants to know."""
        if not any(scorer.reads_votes for scorer in self.scorers):
            return None
        columns = [c for c in polars_schema(Votes) if c not in ("raw", "rationale")]
        return self.workspace.read("votes", bucket, ANSWER_STAGES, columns)

"""What a scorer must have, and its numbers as rows of the `votes` table."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from schemas.ids import canonical_json, hash_fields
from schemas.messages import text_of
from schemas.rows import vote_row
from schemas.tables import Row, Votes, rows_frame
from transforms.plugins.base import Plugin, PluginConfig
from transforms.text.embedding import MemoryCache, VectorCache


class ScorerConfig(PluginConfig):
    """What every scorer takes."""

    group: str | None = Field(
        None, min_length=1, description="voters of one group share a weight; default: the family of the plug-in"
    )


class Scorer(Plugin):
    """Pairs to votes without a call of a language model.

    Attributes:
        measures: what the score means, in one sentence.
        family: of scorers that see the same of a text and so err together; default: the plug-in alone.
        reads_votes: whether `votes` wants the answers of source, judges and people on the pairs. It must not let a
            pair's own labels speak in its vote on that pair.
    """

    kind: ClassVar[str] = "scorers"
    Config: ClassVar[type[PluginConfig]] = ScorerConfig
    config: ScorerConfig
    measures: ClassVar[str]
    family: ClassVar[str | None] = None
    reads_votes: ClassVar[bool] = False

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the votes, the voter's name among it."""
        return {**super().identity, "name": self.name}

    @property
    def group(self) -> str:
        """The group its votes belong to."""
        return self.config.group or self.family or self.plugin_name

    def use_cache(self, cache: VectorCache) -> None:
        """Keep embeddings and rewards in `cache` from now on, by default in memory."""
        self._cache = cache

    @cached_property
    def _cache(self) -> VectorCache:
        return MemoryCache()

    def fit(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> bytes:
        """Train on a bounded sample of the whole workspace; b"" if nothing is learned. Deterministic."""
        return b""

    @abstractmethod
    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
        """At most one vote per pair. All pairs of a prompt come together.

        Args:
            pairs: rows of `pairs`.
            model: what `fit` returned.
            answers: rows of `votes` by others on these pairs, for a scorer that `reads_votes`.
        """


@dataclass(frozen=True)
class Opinion:
    """What a scorer says of one pair; `label` is a, b, tie or a state."""

    pair_id: str
    label: str
    p_a: float | None = None
    score_a: float | None = None
    score_b: float | None = None
    aspects: dict[str, Any] = field(default_factory=dict)
    detail: str | None = None


def label_by_difference(score_a: float, score_b: float, tie_band: float) -> str:
    """`tie` if the scores differ by at most `tie_band`, else the side with the higher score."""
    difference = score_a - score_b
    if abs(difference) <= tie_band:
        return "tie"
    return "a" if difference > 0 else "b"


def vote_frame(opinions: Iterable[Opinion], voter: str, kind: Literal["reward", "rule"], group: str) -> pl.DataFrame:
    """Rows of `votes`, one per opinion. A voter has one vote per pair, so the id hashes voter and pair.

    `group` names voters that err together: the fuser shares one weight among those present.
    """
    rows = [
        vote_row(
            hash_fields("score", voter, opinion.pair_id),
            opinion.pair_id,
            voter,
            kind,
            opinion.label,
            voter_group=group,
            p_a=opinion.p_a,
            score_a=opinion.score_a,
            score_b=opinion.score_b,
            aspects=canonical_json(opinion.aspects).decode() if opinion.aspects else None,
            detail=opinion.detail,
        )
        for opinion in opinions
    ]
    return rows_frame(rows, Votes)


SURFACE = "surface"  # family of length, repetition, relevance and their product


class RuleConfig(ScorerConfig):
    """What every rule takes."""

    tie_band: float = Field(0.0, ge=0.0, description="a tie if the two scores differ by at most this")


class Rule(Scorer):
    """A scorer that learns nothing: the response with the higher score wins.

    A subclass gives `score`, which may look at the row's prompt, checks or reference. Exchanging a and b
    exchanges the scores and mirrors the label. `p_a` stays null: a rule's score is no probability.
    """

    Config: ClassVar[type[PluginConfig]] = RuleConfig
    config: RuleConfig

    @abstractmethod
    def score(self, response: str, row: Row) -> float | None:
        """Score of one response; None if the rule has nothing to say about the row."""

    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
        """One vote per pair the rule has something to say about."""
        opinions = (self.opinion(row) for row in pairs.iter_rows(named=True))
        return vote_frame([opinion for opinion in opinions if opinion is not None], self.name, "rule", self.group)

    def opinion(self, row: Row) -> Opinion | None:
        """The rule's opinion of one pair, or None."""
        scores = [self.score(text_of(row[side]), row) for side in ("response_a", "response_b")]
        a, b = scores
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            return None
        return Opinion(row["pair_id"], label_by_difference(a, b, self.config.tie_band), score_a=a, score_b=b)


def query_of(row: Row) -> str:
    """What is asked: the last user message of the prompt, or the whole prompt if there is none."""
    asked = [message for message in row["prompt"] if message["role"] == "user"]
    return str(asked[-1]["content"]) if asked else text_of(row["prompt"])

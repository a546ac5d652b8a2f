"""Shared shape of rule voters: two scores a pair, a label from their difference."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import polars as pl
from pydantic import Field

from schemas.messages import text_of
from schemas.tables import Row
from transforms.plugins.base import PluginConfig
from transforms.scorers.base import Opinion, Scorer, ScorerConfig, label_by_difference, vote_frame

SURFACE = "surface"  # family of length, repetition, relevance and their product


class RuleConfig(ScorerConfig):
    """What every rule takes."""

    tie_band: float = Field(0.0, ge=0.0, description="tie where the two scores differ by at most this")


class Rule(Scorer):
    """A scorer that learns nothing: the response with the higher score wins.

    A subclass gives `score`, which may look at the row's prompt, checks or reference. Exchanging a and b
    exchanges the scores and mirrors the label. `p_a` stays null: a rule's score is no probability.
    """

    Config: ClassVar[type[PluginConfig]] = RuleConfig
    config: RuleConfig

    @abstractmethod
    def score(self, response: str, row: Row) -> float | None:
        """Score of one response; None where the rule has nothing to say about the row."""

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

"""Rule voter: the response that repeats itself less."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers.base import SURFACE, Rule, RuleConfig
from transforms.text.surface import distinct_ngram_ratio, words


@register("repetition")
class Repetition(Rule):
    """Distinct trigrams over all trigrams, in (0, 1]; responses under three words count as 1."""

    class Config(RuleConfig):
        """Settings of `repetition`."""

        tie_band: float = Field(0.02, ge=0.0, description="a tie if the ratios differ by at most this")

    family: ClassVar[str | None] = SURFACE
    measures: ClassVar[str] = "How little the response repeats itself (distinct over all word trigrams)."

    def score(self, response: str, row: Row) -> float | None:
        """The ratio."""
        return distinct_ngram_ratio(words(response))

"""Rule voter: relevance times length times non-repetition."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers._relevance import lexical_relevance
from transforms.scorers.base import SURFACE, Rule, RuleConfig, query_of
from transforms.text.surface import distinct_ngram_ratio, words


@register("r3")
class R3(Rule):
    """Open-ended reward of R3: relevance(query, answer) x words / 100 x distinct trigram ratio.

    The formula is known to us from a third party's note, not from the authors' code; relevance is lexical here.
    """

    class Config(RuleConfig):
        """Settings of `r3`."""

        tie_band: float = Field(0.01, ge=0.0, description="a tie if the products differ by at most this")

    family: ClassVar[str | None] = SURFACE
    measures: ClassVar[str] = "Relevance to the question times length times non-repetition."

    def score(self, response: str, row: Row) -> float | None:
        """The product, >= 0."""
        tokens = words(response)
        return lexical_relevance(query_of(row), response) * len(tokens) / 100 * distinct_ngram_ratio(tokens)

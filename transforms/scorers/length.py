"""Rule voter: the longer response."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers.base import SURFACE, Rule, RuleConfig
from transforms.text.surface import words


@register("length")
class Length(Rule):
    """Logarithm of the response's length. Length is a bias as often as a merit: the fuser learns which it is."""

    class Config(RuleConfig):
        """Settings of `length`."""

        unit: Literal["words", "chars"] = Field("words", description="what is counted")
        tie_band: float = Field(0.05, ge=0.0, description="a tie if lengths differ by at most this in logarithm")

    family: ClassVar[str | None] = SURFACE
    measures: ClassVar[str] = "How long the response is; the longer one is preferred."
    config: Config

    def score(self, response: str, row: Row) -> float | None:
        """log(1 + length)."""
        return math.log1p(len(words(response)) if self.config.unit == "words" else len(response))

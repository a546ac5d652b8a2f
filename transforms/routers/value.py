"""Ask where an answer is expected to improve the published label most."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from schemas.tables import Row
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.routers.base import Router
from transforms.stats.value_of_answers import gain_of_answers, human_agreement, outcomes, reliability_of

_TIE_BREAK = 1e-6


@register("value")
class ValueRouter(Router):
    """Expected reduction of posterior loss per answer (value of information) under the fused model.

    A pair's value is the largest mean gain of one to `ahead` answers: if a single answer cannot turn a label,
    two or three may (Frazier and Powell, "Paradoxes in Learning and the Marginal Value of Information", 2010).
    `reliability` is how often one annotator names the right outcome. Where several humans already answered
    the same pairs, `fit` replaces it per kind of task by what their agreement shows, shrunk towards the
    configured figure: an answer buys little if people themselves cannot tell.
    If candidates have a column `step`, it says per pair how far one more answer moves the log-odds of a against
    b under that model, and stands above both: if it moves little, an answer buys little.
    Pairs whose label so many answers cannot turn are ordered by what one buys in squared error.
    What an answer is expected to fix on other pairs is not added: a correlated knowledge gradient chose worse.
    """

    class Config(PluginConfig):
        """Options of the value router."""

        loss: Literal["zero_one", "brier", "log"] = Field(
            default="zero_one", description="zero_one counts wrong labels; brier and log judge soft labels"
        )
        reliability: float = Field(default=0.9, gt=1 / 3, lt=1, description="P(one annotator is right)")
        ahead: int = Field(default=3, ge=1, le=9, description="answers to one pair that are looked ahead")
        prior_answers: float = Field(default=50, gt=0, description="comparisons the configured figure is worth")

    config: Config

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Annotators' reliability per kind of task, from how often two of them agree."""
        counts = human_agreement(labelled)
        prior = self.config.reliability**2 + (1 - self.config.reliability) ** 2 / 2
        shrunk = (pl.col("agreeing") + prior * self.config.prior_answers) / (
            pl.col("compared") + self.config.prior_answers
        )
        rates = counts.select("kind", shrunk.alias("agreement"))
        return {"reliability": {kind: reliability_of(rate) for kind, rate in rates.iter_rows()}}

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """Expected gain per answer, at least 0, in the unit of the configured loss."""
        known: dict[str, float] = model.get("reliability", {})
        kinds = candidates["kind"].fill_null("").to_list()
        reliability = np.array([known.get(kind, self.config.reliability) for kind in kinds], dtype=np.float64)
        if "step" in candidates.columns:
            odds = np.exp(candidates["step"].cast(pl.Float64).to_numpy())
            reliability = odds / (2 + odds)  # of three outcomes, the odds against each other one are `odds`
        p = outcomes(candidates)
        ahead = range(1, self.config.ahead + 1)
        gain = np.max([gain_of_answers(p, reliability, self.config.loss, m) / m for m in ahead], axis=0)
        return pl.Series("value", gain + _TIE_BREAK * gain_of_answers(p, reliability, "brier"))

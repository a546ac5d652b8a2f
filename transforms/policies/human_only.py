"""`human_only`: nothing is published that no human has seen."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.policies.base import CertaintyConfig, DoubtPolicy, doubtful_action, is_certain
from transforms.stats.label_noise import action_shares, with_actions


@register("human_only")
class HumanOnly(DoubtPolicy):
    """Decide pairs with enough human votes, send the others to humans (or drop them).

    A pair with at least `min_humans` votes and `certainty` is kept if the source agrees or is silent,
    flipped if it says otherwise, and a tie if that is the answer; below that certainty `doubtful` decides.

    Reasons: `human_decided`, `source_agrees`, `source_contradicted`, `no_source_label`, `doubtful`,
    `no_human_vote`, `tie_most_probable`.
    """

    class Config(CertaintyConfig):
        """What counts as a human decision."""

        min_humans: int = Field(1, ge=1)
        otherwise: Literal["route", "drop"] = "route"

        @model_validator(mode="after")
        def _somebody_is_asked(self) -> Self:
            if self.doubtful == "ask" and self.otherwise == "drop":
                raise ValueError("doubtful: ask asks about pairs that wait for people; with otherwise: drop none does")
            return self

    config: Config
    version: ClassVar[int] = 2

    def fit(self, verdicts: pl.DataFrame) -> Row:
        """`predicted`: share of each action on these verdicts."""
        return {"predicted": action_shares(self.decide({}, verdicts))} if len(verdicts) else {"predicted": {}}

    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """Action and reasons by row; `verdicts` is a `decision_frame`."""
        c = self.config
        has_humans = pl.col("n_human") >= c.min_humans
        sure = has_humans & is_certain(c.certainty)
        silent = pl.col("source_label").is_null()
        agrees = ~silent & (pl.col("source_label") == pl.col("label")).fill_null(value=False)
        is_tie = sure & (pl.col("label") == "tie")
        action = (
            pl.when(~has_humans)
            .then(pl.lit(c.otherwise))
            .when(~sure)
            .then(doubtful_action(c.doubtful))
            .when(is_tie)
            .then(pl.lit("tie"))
            .when(agrees | silent)
            .then(pl.lit("keep"))
            .otherwise(pl.lit("flip"))
        )
        return with_actions(
            verdicts,
            action,
            [
                ("doubtful", has_humans & ~sure),
                ("no_human_vote", ~has_humans),
                ("tie_most_probable", is_tie),
                ("human_decided", sure),
                ("source_agrees", sure & agrees),
                ("source_contradicted", sure & ~agrees & ~silent),
                ("no_source_label", silent),
            ],
        )

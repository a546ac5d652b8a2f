"""`posterior`: actions by thresholds on certainty and on P(source label is wrong)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from schemas.tables import Row
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.policies.base import Policy
from transforms.stats.label_noise import action_shares, with_actions


@register("posterior")
class PosteriorPolicy(Policy):
    """Believe the posterior.

    With a source label: keep it where noise <= `keep_noise`, flip it where noise >= `flip_noise`, else the pair
    is in doubt. Without one: keep the fused label if certainty >= `keep_certainty`. If a tie is most
    probable the pair is a tie. A pair in doubt is softened (published with p_a as soft label) if its certainty
    reaches `soften_certainty`, and below that gets the action `below`.

    Reasons: `source_agrees`, `source_contradicted`, `source_doubtful`, `no_source_label`, `tie_most_probable`,
    `human_decided`, `no_votes`, `voters_disagree`, `uncertain`.
    """

    class Config(PluginConfig):
        """Thresholds, all probabilities."""

        keep_noise: float = Field(0.35, ge=0.0, le=1.0)
        flip_noise: float = Field(0.75, ge=0.0, le=1.0)
        keep_certainty: float = Field(0.65, ge=0.0, le=1.0)
        soften_certainty: float = Field(0.5, ge=0.0, le=1.0)
        below: Literal["drop", "route", "soften"] = "route"

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.keep_noise >= self.flip_noise:
                raise ValueError(f"keep_noise {self.keep_noise} must be below flip_noise {self.flip_noise}")
            if self.soften_certainty > self.keep_certainty:
                raise ValueError(
                    f"soften_certainty {self.soften_certainty} must not exceed keep_certainty {self.keep_certainty}"
                )
            return self

    config: Config

    def fit(self, verdicts: pl.DataFrame) -> Row:
        """`predicted`: share of each action on these verdicts."""
        return {"predicted": action_shares(self.decide({}, verdicts))} if len(verdicts) else {"predicted": {}}

    def because(self, model: Row, verdict: Mapping[str, Any]) -> str:
        """The comparison that decided a verdict: `noise`, `certainty`, `n_votes`, `label` and `action` are read."""
        c, noise, certainty = self.config, verdict["noise"], verdict["certainty"]
        if not verdict["n_votes"]:
            return f"nobody voted, so action {c.below} (`below`)"
        if verdict["action"] == "tie":
            return f"P(neither is better) = {certainty:.3f} is the largest and at least 1/3"
        wrong = "" if noise is None else f"P(the source's label is wrong) = {noise:.3f}"
        if verdict["action"] == "flip":
            return f"{wrong} >= flip_noise {c.flip_noise:g}"
        if verdict["action"] == "keep":
            sure = f"certainty {certainty:.3f} >= keep_certainty {c.keep_certainty:g}"
            return f"{wrong} <= keep_noise {c.keep_noise:g}" if wrong else sure
        doubt = (
            f"keep_noise {c.keep_noise:g} < {wrong}" if wrong else f"certainty < keep_certainty {c.keep_certainty:g}"
        )
        sign = ">=" if certainty >= c.soften_certainty else "<"
        return f"{doubt}; certainty {certainty:.3f} {sign} soften_certainty {c.soften_certainty:g}"

    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """Action and reasons by row; `verdicts` is a `decision_frame`."""
        c = self.config
        noise, certainty, label = pl.col("noise"), pl.col("certainty"), pl.col("label")
        no_votes = pl.col("n_votes") == 0
        sourced = noise.is_not_null() & ~no_votes
        # With even odds of a and b the label is "tie" for symmetry's sake, though a tie may be improbable.
        is_tie = (label == "tie") & ~no_votes & (certainty >= 1 / 3)
        kept = pl.when(sourced).then(noise <= c.keep_noise).otherwise(certainty >= c.keep_certainty) & ~no_votes
        # A source tie at even odds is improbable as a tie, and there is no other label to flip it to.
        flipped = sourced & (noise >= c.flip_noise) & (label != pl.col("source_label"))
        doubt = ~is_tie & ~kept & ~flipped
        action = (
            pl.when(is_tie)
            .then(pl.lit("tie"))
            .when(flipped)
            .then(pl.lit("flip"))
            .when(kept)
            .then(pl.lit("keep"))
            .when((certainty >= c.soften_certainty) & ~no_votes)
            .then(pl.lit("soften"))
            .otherwise(pl.lit(c.below))
        )
        return with_actions(
            verdicts,
            action,
            [
                ("tie_most_probable", is_tie),
                ("source_contradicted", flipped & ~is_tie),
                ("source_agrees", kept & sourced & ~is_tie),
                ("source_doubtful", doubt & sourced),
                ("no_source_label", noise.is_null()),
                ("human_decided", pl.col("n_human") > 0),
                ("no_votes", no_votes),
                ("voters_disagree", doubt & (pl.col("disagreement") > 0.5)),
                ("uncertain", doubt & ~no_votes & (certainty < c.keep_certainty)),
            ],
        )

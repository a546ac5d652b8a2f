"""`moss`: actions by the reward ensemble's mean and spread, after Secrets of RLHF II (Wang et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from schemas.errors import DataError
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.policies.base import DoubtConfig, DoubtPolicy, doubtful_action
from transforms.stats.label_noise import action_shares, with_actions


@register("moss")
class Moss(DoubtPolicy):
    """Flip the bottom of the ensemble's mean margin, keep the top, and treat what is between as `doubtful` says.

    mu is the mean of r(preferred) - r(other) over the ensemble, sigma its spread, "preferred" being what the
    source label says. In the paper about a quarter of HH-RLHF has mu < 0: training on the bottom 20% alone
    harms, the next 20% are coin flips. Here the lowest `flip_share` of the pairs is flipped where mu < 0; what
    remains below `doubt_share`, or below 0, is in doubt, and so is the `spread_share` with the largest sigma
    (members disagree). The paper smooths these labels (`doubtful: soften`). Percentiles are of the data, learned in
    `fit`; the paper gives no thresholds for sigma. Without a source label a pair is judged by |mu|: in doubt below the
    same percentile of |mu|.

    Reasons: `doubtful`, `mu_lowest`, `mu_low`, `mu_negative`, `sigma_high`, `mu_high`, `no_source_label`,
    `no_reward_vote`, `source_tie`.
    """

    class Config(DoubtConfig):
        """Shares of the data set, from the bottom of mu and the top of sigma."""

        flip_share: float = Field(0.1, ge=0.0, le=1.0)
        doubt_share: float = Field(0.3, ge=0.0, le=1.0)
        spread_share: float = Field(0.05, ge=0.0, le=1.0)

        @model_validator(mode="before")
        @classmethod
        def _replaced(cls, given: Any) -> Any:
            if isinstance(given, dict) and "soften_share" in given:
                raise ValueError("soften_share: replaced by doubt_share, and doubtful says what happens to these pairs")
            return given

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.flip_share > self.doubt_share:
                raise ValueError(f"flip_share {self.flip_share} must not exceed doubt_share {self.doubt_share}")
            return self

    config: Config
    version: ClassVar[int] = 3

    def fit(self, verdicts: pl.DataFrame) -> Row:
        """Percentiles of mu and sigma, and `predicted`, the share of each action.

        Raises:
            DataError: no reward voter voted.
        """
        if not len(verdicts):
            return {"predicted": {}}
        frame = _signed(verdicts).filter(pl.col("_mu").is_not_null())
        if not len(frame):
            raise DataError("policy moss needs votes of kind reward (a scorer such as bt_heads); there are none")
        c = self.config
        sourced = frame.filter(pl.col("source_label").is_not_null())["_mu"]
        model: Row = {
            "flip_below": _quantile(sourced, c.flip_share),
            "doubt_below": _quantile(sourced, c.doubt_share),
            "doubt_size_below": _quantile(frame["mu"].abs(), c.doubt_share),
            "sigma_above": _quantile(frame["sigma"], 1 - c.spread_share),
        }
        return {**model, "predicted": action_shares(self.decide(model, verdicts))}

    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """Action and reasons by row; `verdicts` is a `decision_frame`. Pairs without reward votes are in doubt."""
        frame = _signed(verdicts)
        mu, missing = pl.col("_mu"), pl.col("_mu").is_null()
        sourced = pl.col("source_label").is_in(["a", "b"]).fill_null(value=False) & ~missing
        tied = (pl.col("source_label") == "tie").fill_null(value=False) & ~missing
        lowest = sourced & (mu < _bound(model, "flip_below")) & (mu < 0)
        negative = sourced & (mu < 0) & ~lowest
        size_low = pl.col("mu").abs() < _bound(model, "doubt_size_below")
        low = pl.when(sourced).then(mu < _bound(model, "doubt_below")).otherwise(size_low) & ~lowest & ~missing
        spread = (pl.col("sigma") > _bound(model, "sigma_above", top=True)).fill_null(value=False) & ~lowest & ~tied
        doubt = (negative | low | spread | missing) & ~tied
        kept = ~(tied | lowest | doubt)
        frame = _labelled(frame, sourced & kept, lowest)
        action = (
            pl.when(tied)
            .then(pl.lit("tie"))
            .when(lowest)
            .then(pl.lit("flip"))
            .when(doubt)
            .then(doubtful_action(self.config.doubtful))
            .otherwise(pl.lit("keep"))
        )
        return with_actions(
            frame,
            action,
            [
                ("source_tie", tied),
                ("doubtful", doubt),
                ("mu_lowest", lowest),
                ("mu_negative", negative),
                ("mu_low", low & ~tied),
                ("sigma_high", spread),
                ("mu_high", kept),
                ("no_source_label", pl.col("source_label").is_null()),
                ("no_reward_vote", missing),
            ],
        )


def _labelled(verdicts: pl.DataFrame, keep: pl.Expr, flip: pl.Expr) -> pl.DataFrame:
    """The label a kept or flipped source label leaves, whatever the posterior says, and its probability."""
    source = pl.col("source_label")
    other = pl.when(source == "a").then(pl.lit("b")).otherwise(pl.lit("a"))
    label = pl.when(keep).then(source).when(flip).then(other).otherwise("label")
    strict = 1 - pl.col("p_tie")
    chance = pl.when(label == "a").then(pl.col("p_a") * strict).when(label == "b").then((1 - pl.col("p_a")) * strict)
    return verdicts.with_columns(label.alias("label"), chance.otherwise("p_tie").alias("certainty"))


def _signed(verdicts: pl.DataFrame) -> pl.DataFrame:
    """`_mu`: the ensemble's margin of what the source prefers; of the better-scored response without a source label."""
    source = pl.col("source_label")
    return verdicts.with_columns(
        pl.when(source == "a")
        .then(pl.col("mu"))
        .when(source == "b")
        .then(-pl.col("mu"))
        .otherwise(pl.col("mu").abs())
        .alias("_mu")
    )


def _quantile(values: pl.Series, share: float) -> float | None:
    value = values.quantile(share, interpolation="linear")
    return None if value is None else float(value)


def _bound(model: Row, key: str, *, top: bool = False) -> float:
    """A percentile of the model; if the sample had none, one that no value passes."""
    value = model.get(key)
    return float(value) if value is not None else (float("inf") if top else float("-inf"))

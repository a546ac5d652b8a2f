"""Share the budget among slices as a bandit: ask where people change most per label, and keep exploring."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import polars as pl
import scipy
from pydantic import Field

from schemas.tables import Row
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.routers.base import Router
from transforms.stats.value_of_answers import gain_of_answers, outcomes, without_humans


@register("bandit")
class BanditRouter(Router):
    """Upper confidence bounds over arms = (slice, how certain the posterior is), spent as a knapsack.

    The reward of an answer is whether it turned the label over; `fit` counts rewards per arm. The j-th pair
    asked from an arm with n answers of N is worth mean + sqrt(exploration ln N / (n + j)), the bound it would
    have by then (UCB1, Auer, Cesa-Bianchi and Fischer 2002; costs as in bandits with knapsacks, Badanidiyuru et
    al. 2013: the queue divides by seconds if the budget is in seconds), so that one queue already
    spreads over arms. Within an arm pairs come by expected gain. `j` counts within one bucket.

    The fitted model reports `regret`: labels turned over that the best arm, by today's means, would have
    brought beyond what was brought.
    """

    class Config(PluginConfig):
        """Options of the bandit."""

        slice: Literal["kind", "language", "origin", "context_kind"] = "kind"
        bins: int = Field(default=5, ge=1, le=20, description="bins of certainty per slice")
        exploration: float = Field(
            default=0.25, ge=0, description="2 is UCB1's; rewards are rare, so less explores well"
        )
        reliability: float = Field(default=0.9, gt=1 / 3, lt=1, description="P(one annotator is right)")

    config: Config
    version: ClassVar[int] = 2

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Answers and flips per arm, and the regret so far."""
        if not labelled.height:
            return {}
        before = without_humans(labelled)
        certainty = pl.Series(scipy.special.expit(before["margin_machine"].abs().to_numpy()))
        rows = pl.DataFrame({"arm": self._arms(labelled, certainty), "flipped": before["flipped"]})
        counts = rows.group_by("arm").agg(pl.len().alias("n"), pl.col("flipped").sum().alias("k")).sort("arm")
        arms = {arm: [n, k] for arm, n, k in counts.iter_rows()}
        best = max((k + 1) / (n + 2) for n, k in arms.values())
        return {"arms": arms, "regret": max(0.0, best * labelled.height - float(counts["k"].sum()))}

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """Upper confidence bound of the chance that an answer turns the label over."""
        arms: dict[str, list[int]] = model.get("arms", {})
        p_a = candidates["p_a"].cast(pl.Float64)
        gain = gain_of_answers(outcomes(candidates), self.config.reliability, "brier")
        rows = pl.DataFrame({"arm": self._arms(candidates, 0.5 + (p_a - 0.5).abs()), "gain": gain})
        rows = rows.with_columns(
            pl.struct(-pl.col("gain"), pl.int_range(pl.len())).rank("ordinal").over("arm").alias("j")
        )
        total = sum(n for n, _ in arms.values()) + candidates.height
        n = np.array([arms.get(arm, [0, 0])[0] for arm in rows["arm"]], dtype=np.float64)
        k = np.array([arms.get(arm, [0, 0])[1] for arm in rows["arm"]], dtype=np.float64)
        # Before any answer an arm's mean is what the posterior expects: its gain, worth two answers.
        mean = (k + 2 * np.clip(gain, 0, 0.5)) / (n + 2)
        bonus = np.sqrt(self.config.exploration * math.log(max(2, total)) / (n + rows["j"].to_numpy() + 1))
        return pl.Series("value", mean + bonus)

    def _arms(self, rows: pl.DataFrame, certainty: pl.Series) -> pl.Series:
        """The arm of each row: its slice and bin of P(most probable side), from 1/2 to 1."""
        bins = ((certainty - 0.5) * 2 * self.config.bins).floor().clip(0, self.config.bins - 1).cast(pl.Int32)
        kind = (
            rows[self.config.slice].fill_null("") if self.config.slice in rows.columns else pl.Series([""] * len(bins))
        )
        return (kind + "/" + bins.cast(pl.String)).alias("arm")

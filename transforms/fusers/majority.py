"""`majority`: every vote counts the same."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
import scipy
from pydantic import Field

from schemas.tables import Row
from transforms.fusers.base import Fuser
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.stats.verdict_rows import verdicts
from transforms.stats.vote_cells import valid_votes


@register("majority")
class Majority(Fuser):
    """A baseline: the log-odds of a pair are logit(`accuracy`) for each vote for a, less that for each for b.

    Nothing is learned, copies count twice, and p_a is calibrated only if voters are independent and all as
    accurate as `accuracy` says. P(tie) is the share of ties among the votes.
    """

    class Config(PluginConfig):
        """What a vote is worth."""

        accuracy: float = Field(0.6, gt=0.5, lt=1.0)

    config: Config
    version: ClassVar[int] = 2

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """Nothing to learn."""
        return {"log_odds": float(scipy.special.logit(self.config.accuracy))}

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Verdicts of `pairs`."""
        valid = valid_votes(votes)
        cells = valid.group_by("pair_id", "voter", maintain_order=True).agg(
            pl.len().cast(pl.Int32).alias("n_votes"),
            pl.col("label").str.join("+").alias("labels"),
            (pl.col("sign").sum() * model["log_odds"]).alias("log_odds"),
        )
        return verdicts(pairs.with_columns(pl.lit(0.0).alias("prior")), valid, cells, tie_share(pairs, valid))


def tie_share(pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, p_tie`: share of ties among a pair's valid votes; 0 without votes."""
    shares = votes.group_by("pair_id").agg((pl.col("sign") == 0).mean().alias("p_tie"))
    ids = pairs.select("pair_id").unique(maintain_order=True)
    return ids.join(shares, on="pair_id", how="left").with_columns(pl.col("p_tie").fill_null(0.0))

"""`glad`: abilities and difficulties by expectation maximisation (Whitehill et al. 2009)."""

from __future__ import annotations

import math
from typing import ClassVar

import polars as pl
from pydantic import Field

from schemas.tables import Row
from transforms.fusers._crowdkit import aggregation, quiet_pandas, task_worker_label, worker_cells
from transforms.fusers.base import Fuser
from transforms.fusers.majority import tie_share
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.stats.verdict_rows import verdicts
from transforms.stats.vote_cells import valid_votes


@register("glad")
class Glad(Fuser):
    """A baseline: crowd-kit's GLAD on the votes for a or b.

    P(vote is right) = expit(alpha_voter * beta_pair). The log-odds of a pair are the sum of its votes' alpha
    times beta, so beta cannot change who wins; a pair gets the mean beta of the pairs learned from, and its
    label is the same in any bucket. Unsupervised: human votes are votes like others. P(tie) is the ties' share.
    """

    class Config(PluginConfig):
        """Stopping rules; each iteration runs a conjugate-gradient search over all parameters."""

        iterations: int = Field(20, ge=1)

    config: Config
    version: ClassVar[int] = 2

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """`alpha` by worker (a judge's two orders are two workers) and the mean `beta`."""
        valid = valid_votes(votes).join(pairs.select("pair_id").unique(), on="pair_id", how="semi")
        sided = valid.filter(pl.col("label") != "tie")
        if sided["label"].n_unique() < 2:
            return {"alpha": {}, "beta": 1.0}
        em = aggregation("GLAD")(n_iter=self.config.iterations)
        with quiet_pandas():
            em.fit(task_worker_label(sided))
        beta = float(sum(math.exp(b) for b in em.betas_) / len(em.betas_))
        return {"alpha": {str(k): float(v) for k, v in em.alphas_.items()}, "beta": beta}

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Verdicts of `pairs`."""
        valid = valid_votes(votes)
        weights = pl.DataFrame(
            {"worker": list(model["alpha"]), "_w": [model["beta"] * a for a in model["alpha"].values()]},
            schema={"worker": pl.String, "_w": pl.Float64},
        )
        sides = pl.DataFrame({"label": ["a", "b"], "_s": [1.0, -1.0]})
        table = weights.join(sides, how="cross").select(
            "worker", "label", (pl.col("_w") * pl.col("_s")).alias("log_odds"), pl.lit(0.0).alias("log_tie")
        )
        even = pairs.with_columns(pl.lit(0.0).alias("prior"))
        return verdicts(even, valid, worker_cells(valid, table), tie_share(pairs, valid))

"""`stack`: logistic regression of the humans' label on every vote and on length."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
import scipy
from numpy.typing import NDArray
from pydantic import Field

from schemas.tables import Row
from transforms.fusers._crowdkit import labels_of_humans, with_workers
from transforms.fusers.base import Fuser
from transforms.fusers.majority import tie_share
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.stats.logistic import fit_logistic
from transforms.stats.verdict_rows import verdicts
from transforms.stats.vote_cells import valid_votes

LENGTH = "(length)"  # a recipe's voters have no brackets in their names


@register("stack")
class Stack(Fuser):
    """A baseline: L2 logistic regression, one feature a (voter, order) in {-1, 0, 1} plus log(length_a / length_b).

    Voters are strangers to each other and a missing vote is a 0; it needs as many labels as it has voters. The
    length counts as a voter named `(length)`. Without labels every weight is 0. P(tie) is the ties' share.
    """

    class Config(PluginConfig):
        """`c` is the inverse strength of regularisation, as in scikit-learn."""

        c: float = Field(1.0, gt=0.0)

    config: Config
    version: ClassVar[int] = 3

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """`intercept`, `weights` by worker, and `calibrated_by`: "people", or None without any label."""
        pairs = pairs.unique("pair_id").sort("pair_id")
        valid = valid_votes(votes)
        human_labels = labels_of_humans(valid, pairs)
        labelled = pairs.join(human_labels, on="pair_id", how="inner", maintain_order="left").drop_nulls("target")
        if not len(labelled):
            return {"intercept": 0.0, "weights": {}, "calibrated_by": None}
        features = _features(valid, labelled)
        workers = sorted(set(features["worker"]))
        position = {w: i + 1 for i, w in enumerate(workers)}
        row_of = {pair: i for i, pair in enumerate(labelled["pair_id"].to_list())}
        rows = [row_of[p] for p in features["pair_id"].to_list()] + list(range(len(labelled)))
        cols = [position[w] for w in features["worker"].to_list()] + [0] * len(labelled)
        values: NDArray[np.float64] = np.concatenate([features["x"].to_numpy(), np.ones(len(labelled))])
        design = scipy.sparse.coo_matrix((values, (rows, cols)), shape=(len(labelled), len(workers) + 1)).tocsr()
        variance = np.full(len(workers) + 1, self.config.c)
        variance[0] = 1e6  # an intercept is not regularised
        target = labelled["target"].to_numpy()
        weights = fit_logistic(design, target, np.ones(len(target)), np.zeros(len(variance)), variance).weights
        by_worker = dict(zip(workers, weights[1:].tolist(), strict=True))
        return {"intercept": float(weights[0]), "weights": by_worker, "calibrated_by": "people"}

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Verdicts of `pairs`."""
        valid = valid_votes(votes)
        weights = pl.DataFrame(
            {"worker": list(model["weights"]), "_w": list(model["weights"].values())},
            schema={"worker": pl.String, "_w": pl.Float64},
        )
        cells = (
            _features(valid, pairs)
            .join(weights, on="worker", how="left", maintain_order="left")
            .group_by("pair_id", "voter", maintain_order=True)
            .agg(
                pl.col("n_votes").sum().cast(pl.Int32),
                pl.col("label").str.join("+").alias("labels"),
                (pl.col("x") * pl.col("_w").fill_null(0.0)).sum().alias("log_odds"),
            )
        )
        intercept = pl.lit(float(model["intercept"])).alias("prior")
        return verdicts(pairs.with_columns(intercept), valid, cells, tie_share(pairs, valid))


def _features(valid: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, voter, worker, n_votes, label, x`: one row a (pair, worker) in order, length included."""
    machine = with_workers(valid.filter(pl.col("kind") != "human")).join(
        pairs.select("pair_id").unique(), on="pair_id", how="semi", maintain_order="left"
    )
    opinions = machine.group_by("pair_id", "voter", "worker", maintain_order=True).agg(
        pl.len().cast(pl.Int32).alias("n_votes"), pl.col("label").str.join("+"), pl.col("sign").mean().alias("x")
    )
    ratio = (pl.col("length_a").cast(pl.Float64) + 1).log() - (pl.col("length_b").cast(pl.Float64) + 1).log()
    lengths = pairs.unique("pair_id", maintain_order=True).select(
        "pair_id",
        pl.lit(LENGTH).alias("voter"),
        pl.lit(LENGTH).alias("worker"),
        pl.lit(0, dtype=pl.Int32).alias("n_votes"),
        pl.when(ratio > 0).then(pl.lit("a")).when(ratio < 0).then(pl.lit("b")).otherwise(pl.lit("tie")).alias("label"),
        ratio.alias("x"),
    )
    return pl.concat([opinions, lengths])

"""From log-odds and contributions to the rows of `verdicts`, the same way for every fuser."""

from __future__ import annotations

import math

import polars as pl
import scipy

from schemas.tables import Verdicts, polars_schema

MAX_LOG_ODDS = 8.0
COLUMNS = tuple(name for name in polars_schema(Verdicts) if name not in ("noise", "action", "reasons"))
CONTRIBUTIONS = pl.List(
    pl.Struct({"voter": pl.String, "n_votes": pl.Int32, "label": pl.String, "log_odds": pl.Float64})
)


def verdicts(pairs: pl.DataFrame, votes: pl.DataFrame, cells: pl.DataFrame, p_tie: pl.DataFrame) -> pl.DataFrame:
    """One verdict a row of `pairs`, in its order.

    Args:
        pairs: `pair_id, prompt_id` and `prior`: log-odds before any vote.
        votes: `valid_votes` (human ones too).
        cells: `pair_id, voter, n_votes, labels, log_odds`: what each voter adds to the log-odds of "a is better".
        p_tie: `pair_id, p_tie`.

    Returns:
        The `verdicts` columns but noise, action and reasons. No evidence makes a pair surer than
        `MAX_LOG_ODDS`: beyond it prior and contributions shrink by one factor, so they still add up.
    """
    bounded = pl.col("prior").clip(-MAX_LOG_ODDS, MAX_LOG_ODDS).cast(pl.Float64)
    pairs = pairs.select("pair_id", "prompt_id", bounded.alias("prior"))
    ids = pairs.select("pair_id", pl.col("prior").alias("_prior")).unique("pair_id")
    cells = (
        cells.join(ids, on="pair_id", maintain_order="left")
        .with_columns((pl.col("log_odds").sum().over("pair_id") + pl.col("_prior")).abs().alias("_size"))
        .with_columns((MAX_LOG_ODDS / pl.max_horizontal("_size", pl.lit(MAX_LOG_ODDS))).alias("_scale"))
        .with_columns(pl.col("log_odds") * pl.col("_scale"))
        .with_columns(pl.col("log_odds").abs().alias("_rank"))
        .sort("pair_id", "_rank", "voter", descending=[False, True, False])
    )
    sums = cells.group_by("pair_id", maintain_order=True).agg(
        (pl.col("log_odds").sum() + (pl.col("_prior") * pl.col("_scale")).first()).alias("margin"),
        (pl.col("_prior") * pl.col("_scale")).first().alias("_scaled"),
        pl.struct("voter", "n_votes", pl.col("labels").alias("label"), "log_odds").alias("contributions"),
    )
    counts = (
        votes.join(ids, on="pair_id", how="semi")
        .group_by("pair_id")
        .agg(
            pl.len().cast(pl.Int32).alias("n_votes"),
            (pl.col("kind") == "human").sum().cast(pl.Int32).alias("n_human"),
            _entropy("sign"),
        )
    )
    frame = (
        pairs.join(sums, on="pair_id", how="left", maintain_order="left")
        .join(counts, on="pair_id", how="left", maintain_order="left")
        .join(p_tie, on="pair_id", how="left", maintain_order="left")
        .with_columns(
            pl.coalesce("margin", "prior").clip(-MAX_LOG_ODDS, MAX_LOG_ODDS).alias("margin"),
            pl.coalesce("_scaled", "prior").alias("prior"),
            pl.col("contributions").fill_null(pl.lit([], dtype=CONTRIBUTIONS)),
            pl.col("n_votes").fill_null(0),
            pl.col("n_human").fill_null(0),
            pl.col("disagreement").fill_null(0.0),
        )
        .with_columns(_expit(pl.col("margin")).alias("p_a"))
    )
    # By size of the margin, not by p_a: 1 - expit(z) and expit(-z) may differ in the last bit.
    sure = _expit(pl.col("margin").abs()) * (1 - pl.col("p_tie"))
    side = pl.when(pl.col("margin") > 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    is_tie = (pl.col("margin") == 0) | (pl.col("p_tie") >= sure)
    return frame.with_columns(
        pl.when(is_tie).then(pl.lit("tie")).otherwise(side).alias("label"),
        pl.when(is_tie).then(pl.col("p_tie")).otherwise(sure).alias("certainty"),
    ).select(COLUMNS)


def _expit(z: pl.Expr) -> pl.Expr:
    return z.map_batches(scipy.special.expit, return_dtype=pl.Float64)


def _entropy(column: str) -> pl.Expr:
    """Entropy in bits of a, b and tie among the votes, over log2(3)."""
    terms = []
    for sign in (1.0, -1.0, 0.0):
        share = (pl.col(column) == sign).mean()
        terms.append(pl.when(share > 0).then(-share * share.log(2.0)).otherwise(0.0))
    total = pl.max_horizontal(terms[0], terms[1]) + pl.min_horizontal(terms[0], terms[1]) + terms[2]
    # Rounded because the last bit of a logarithm depends on where in a vector a value stands.
    return (total / math.log2(3)).round(12).clip(0.0, 1.0).alias("disagreement")

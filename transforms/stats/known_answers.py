"""Controls: a known answer stands above any vote."""

from __future__ import annotations

import polars as pl
import scipy

from transforms.stats.controls import CONTROL
from transforms.stats.verdict_rows import MAX_LOG_ODDS


def known_labels(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, known` (+1 a, -1 b, 0 tie) of the pairs with a `known_label`."""
    if "known_label" not in pairs.columns:
        return pl.DataFrame(schema={"pair_id": pl.String, "known": pl.Float64})
    label = pl.col("known_label")
    sign = (label == "a").cast(pl.Float64) - (label == "b").cast(pl.Float64)
    return pairs.filter(label.is_not_null()).select("pair_id", sign.alias("known"))


def with_known_answers(cells: pl.DataFrame, priors: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """`cells` and, for each control, what its known answer adds: enough that nothing else can turn it.

    Args:
        cells: `pair_id, voter, n_votes, labels, log_odds` of the voters.
        priors: `pair_id, prior`.
        known: `known_labels`.

    Returns:
        `cells` with a row a control, voter `CONTROL`, no votes; its log-odds bring the sum to at least
        `MAX_LOG_ODDS` on the known side. A known tie adds nothing to either side; see `with_known_ties`.
    """
    if not len(known):
        return cells
    totals = cells.group_by("pair_id").agg(pl.col("log_odds").sum().alias("_total"))
    against = -pl.col("known") * (pl.col("_total").fill_null(0.0) + pl.col("prior").fill_null(0.0))
    answers = (
        known.unique("pair_id")
        .sort("pair_id")
        .join(totals, on="pair_id", how="left", maintain_order="left")
        .join(priors.select("pair_id", "prior").unique("pair_id"), on="pair_id", how="left", maintain_order="left")
        .select(
            "pair_id",
            pl.lit(CONTROL).alias("voter"),
            pl.lit(0, dtype=pl.Int32).alias("n_votes"),
            pl.when(pl.col("known") > 0)
            .then(pl.lit("a"))
            .when(pl.col("known") < 0)
            .then(pl.lit("b"))
            .otherwise(pl.lit("tie"))
            .alias("labels"),
            (pl.col("known") * (MAX_LOG_ODDS + against.clip(lower_bound=0.0))).alias("log_odds"),
        )
    )
    return pl.concat([cells, answers.select(cells.columns)])


def with_known_ties(p_tie: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, p_tie` with the controls' answers: as sure that they are ties, or are none, as anything can be."""
    if not len(known):
        return p_tie
    sure = (
        pl.when(pl.col("known") == 0)
        .then(scipy.special.expit(MAX_LOG_ODDS))
        .otherwise(scipy.special.expit(-MAX_LOG_ODDS))
    )
    return p_tie.join(known.unique("pair_id"), on="pair_id", how="left", maintain_order="left").select(
        "pair_id", pl.when(pl.col("known").is_null()).then("p_tie").otherwise(sure).alias("p_tie")
    )

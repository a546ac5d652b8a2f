"""A pair that we asked people about takes the label of more than half of them, whatever the other voters say.

A fuser weighs a person's answer against the other voters, and three judges may outvote it. Where a recipe asks for an
accuracy (`transforms.stats.pac_labels`), the label of a pair that was asked must be people's: the accuracy is promised
for those labels.
"""

from __future__ import annotations

import math

import polars as pl

from schemas.rows import HUMAN
from transforms.stats.controls import MAJORITY
from transforms.stats.human_labels import human_label
from transforms.stats.verdict_rows import CONTRIBUTIONS, MAX_LOG_ODDS, with_label

ACCURACY = 0.85  # of one person's answer, as the fusers take it before any evidence
_SIDES = ["a", "b"]


def people_decide(verdicts: pl.DataFrame, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Verdicts in which people's label stands.

    Where a verdict contradicts the side that more than half of the people prefer whom we asked about the pair, it gets
    a contribution of the voter `MAJORITY`, without votes, as large as turns it: the margin is then that of as many
    people, right with `ACCURACY` each, as the side has more than the other. P(tie) is at most 1 - `ACCURACY`. What the
    voters add stays, so that what is believed without people can still be told. A verdict stays as it is where people
    have no such side and where the answer is known (a control).

    Args:
        verdicts: a fuser's, one row per pair; logit(p_a) = prior + sum of the contributions' log_odds.
        votes: the `votes` rows of these pairs.
        pairs: `pair_id` and, optionally, `known_label`.
    """
    if "known_label" in pairs.columns:
        votes = votes.join(pairs.filter(pl.col("known_label").is_not_null()), on="pair_id", how="anti")
    asked = votes.filter((pl.col("kind") == "human") & pl.col("voter").str.starts_with(HUMAN))
    sides = human_label(asked).filter(pl.col("label").is_in(_SIDES)).rename({"label": "_side"})
    label = pl.col("label")
    counts = asked.group_by("pair_id").agg(_lead=((label == "a").cast(pl.Int64) - (label == "b").cast(pl.Int64)).sum())
    outvoted = (
        verdicts.join(sides, on="pair_id", how="inner", maintain_order="left")
        .filter(pl.col("label") != pl.col("_side"))
        .join(counts, on="pair_id", how="left", maintain_order="left")
        .with_columns(_margin=(pl.col("_lead") * math.log(ACCURACY / (1 - ACCURACY))).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS))
    )
    if not outvoted.height:
        return verdicts
    turning = outvoted.select(
        "pair_id",
        pl.lit(MAJORITY).alias("voter"),
        pl.lit(0, dtype=pl.Int32).alias("n_votes"),
        pl.col("_side").alias("label"),
        (pl.col("_margin") - pl.col("prior") - _contributed()).alias("log_odds"),
    )
    pieces = outvoted.select("pair_id", "contributions").explode("contributions").drop_nulls().unnest("contributions")
    contributions = (
        pl.concat([pieces.select(turning.columns), turning])
        .sort(pl.col("pair_id"), pl.col("log_odds").abs(), "voter", descending=[False, True, False])
        .group_by("pair_id", maintain_order=True)
        .agg(pl.struct("voter", "n_votes", "label", "log_odds").alias("contributions").cast(CONTRIBUTIONS.inner))
    )
    theirs = with_label(
        outvoted.drop("contributions", "margin")
        .join(contributions, on="pair_id")
        .with_columns(p_tie=pl.col("p_tie").clip(upper_bound=1 - ACCURACY), margin=pl.col("_margin"))
    ).select(verdicts.columns)
    both = pl.concat([verdicts.join(theirs, on="pair_id", how="anti"), theirs])
    ids = verdicts.select("pair_id")
    return ids.join(both, on="pair_id", how="left", maintain_order="left").select(verdicts.columns)


def _contributed() -> pl.Expr:
    return pl.col("contributions").list.eval(pl.element().struct.field("log_odds")).list.sum()

"""A pair that we asked people about takes the label of more than half of them, whatever the other voters say.

A fuser weighs a person's answer against the other voters, and three judges may outvote it. Where a recipe asks for an
accuracy (`transforms.stats.pac_labels`), the label of a pair that was asked must be people's: the accuracy is promised
for those labels.
"""

from __future__ import annotations

import polars as pl

from schemas.rows import HUMAN
from transforms.stats.human_labels import human_label
from transforms.stats.verdict_rows import with_label


def people_decide(verdicts: pl.DataFrame, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Verdicts in which people's label stands.

    Where a verdict contradicts the side that more than half of the people prefer whom we asked about the pair, the
    other voters' contributions and the prior become 0, so that the margin is what these people add. A verdict stays as
    it is where they have no such side, where the answer is known (a control), and where what they add does not prefer
    their side either (a fuser that takes them for worse than chance).

    Args:
        verdicts: a fuser's, one row a pair; logit(p_a) = prior + sum of the contributions' log_odds.
        votes: the `votes` rows of these pairs.
        pairs: `pair_id` and, optionally, `known_label`.
    """
    if "known_label" in pairs.columns:
        votes = votes.join(pairs.filter(pl.col("known_label").is_not_null()), on="pair_id", how="anti")
    asked = votes.filter((pl.col("kind") == "human") & pl.col("voter").str.starts_with(HUMAN))
    sides = human_label(asked).filter(pl.col("label").is_in(["a", "b"])).rename({"label": "_side"})
    outvoted = verdicts.join(sides, on="pair_id", how="inner", maintain_order="left").filter(
        pl.col("label") != pl.col("_side")
    )
    if not outvoted.height:
        return verdicts
    people = asked.select("pair_id", "voter").unique().with_columns(_person=True)
    pieces = (
        outvoted.select("pair_id", "contributions")
        .explode("contributions", empty_as_null=False)
        .unnest("contributions")
        .join(people, on=["pair_id", "voter"], how="left", maintain_order="left")
        .with_columns(log_odds=pl.when("_person").then("log_odds").otherwise(0.0))
        .with_columns(_rank=pl.col("log_odds").abs())
        .sort("pair_id", "_rank", "voter", descending=[False, True, False])
        .group_by("pair_id", maintain_order=True)
        .agg(
            pl.col("log_odds").sum().alias("margin"),
            pl.struct("voter", "n_votes", "label", "log_odds").alias("contributions"),
        )
    )
    theirs = with_label(
        outvoted.drop("margin", "contributions", "prior")
        .join(pieces, on="pair_id", how="inner")
        .with_columns(prior=0.0)
    )
    theirs = theirs.filter(pl.col("label") == pl.col("_side")).select(verdicts.columns)
    both = pl.concat([verdicts.join(theirs, on="pair_id", how="anti"), theirs])
    return (
        verdicts.select("pair_id").join(both, on="pair_id", how="left", maintain_order="left").select(verdicts.columns)
    )

"""What humans said: how reliable each is, and the labels the other voters are measured against.

Two people who cast exactly the same ballots on `COPIED_BALLOTS` votes or more are taken for one: people who are each
right in 85% of cases agree on 25 pairs in a row once in 1,600 times, while a copied account always does. On fewer
votes agreement is what good work looks like, and both count.
"""

from __future__ import annotations

import polars as pl
import scipy

from schemas.tables import PREFERENCES
from transforms.stats.vote_cells import same_ballots

PRIOR_VOTES = 10.0
COPIED_BALLOTS = 25


def human_accuracy(votes: pl.DataFrame, known: pl.DataFrame, prior: float) -> pl.DataFrame:
    """How often each human agrees with known answers and with the majority of the others on the same pair.

    Args:
        votes: `valid_votes` of kind human.
        known: `pair_id, known` (+1 a, -1 b, 0 tie) of control pairs.
        prior: accuracy a human is taken to have before any evidence, worth `PRIOR_VOTES` pairs.

    Returns:
        `voter, slot` (itself, or the first of those that are taken for one person), `n_votes, n_compared, accuracy`
        and `log_odds` = logit(accuracy), at least 0: what one of its votes adds. Nobody is compared with its own
        copies, and they count as one in the majority. Agreement with a fallible majority is a lower bound of
        accuracy, so this errs on the safe side. Ties are not counted.
    """
    slot_of = same_ballots(votes, sorted(votes["voter"].unique()), COPIED_BALLOTS)
    slots = pl.DataFrame(
        {"voter": list(slot_of), "slot": list(slot_of.values())}, schema={"voter": pl.String, "slot": pl.String}
    )
    share = 1.0 / pl.col("voter").n_unique().over("slot")
    both = (
        votes.join(known, on="pair_id", how="left")
        .join(slots, on="voter", how="left")
        .with_columns((pl.col("sign") * share).alias("_vote"))
        .with_columns(
            (pl.col("_vote").sum().over("pair_id") - pl.col("_vote").sum().over("pair_id", "slot"))
            .round(9)
            .alias("_others"),
        )
        .with_columns(pl.coalesce(pl.col("known"), pl.col("_others").sign()).alias("_truth"))
        .with_columns((pl.col("sign") * pl.col("_truth")).alias("_agree"))
    )
    return (
        both.group_by("voter")
        .agg(
            pl.col("slot").first(),
            pl.len().cast(pl.Int64).alias("n_votes"),
            (pl.col("_agree") != 0).sum().cast(pl.Int64).alias("n_compared"),
            (pl.col("_agree") > 0).sum().alias("_right"),
        )
        .with_columns(
            ((pl.col("_right") + prior * PRIOR_VOTES) / (pl.col("n_compared") + PRIOR_VOTES)).alias("accuracy")
        )
        .with_columns(
            pl.col("accuracy")
            .map_batches(scipy.special.logit, return_dtype=pl.Float64)
            .clip(0.0, 6.0)
            .alias("log_odds")
        )
        .drop("_right")
        .sort("voter")
    )


def human_cells(votes: pl.DataFrame, humans: pl.DataFrame, prior: float) -> pl.DataFrame:
    """One row a (pair, human): `pair_id, voter, n_votes, labels, ties, share, log_odds` (signed, mean of its votes).

    `share` is 1 over how many of those taken for one person voted on the pair, and `log_odds` is that share of what
    the person says. A human the model has not met votes with the prior accuracy.
    """
    unknown = float(scipy.special.logit(prior))
    return (
        votes.join(humans.select("voter", "slot", "log_odds"), on="voter", how="left")
        .with_columns(pl.coalesce("slot", "voter").alias("slot"))
        .sort("pair_id", "voter", "order", "sample", "label")
        .group_by("pair_id", "voter", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int32).alias("n_votes"),
            pl.col("label").str.join("+").alias("labels"),
            pl.col("slot").first(),
            (pl.col("sign") == 0).mean().alias("ties"),
            (pl.col("sign").mean() * pl.col("log_odds").first().fill_null(unknown)).alias("log_odds"),
        )
        .with_columns((1.0 / pl.len().over("pair_id", "slot")).alias("share"))
        .with_columns(pl.col("log_odds") * pl.col("share"))
        .drop("slot")
    )


def human_label(votes: pl.DataFrame) -> pl.DataFrame:
    """The label that more than half of the people gave a pair.

    For what is shown of people and what judges are measured and fitted on. `human_targets`, which the fusers learn
    from, differs on purpose: there a reliable person's word counts more, and a side that outweighs the other is a
    target even where ties keep it from a majority.

    Args:
        votes: `pair_id, kind, label` of any voters; invalid, refused and failed votes do not count.

    Returns:
        `pair_id, label` (a, b or tie; null where none has more than half), a row for each pair with a person's vote,
        sorted by pair.
    """
    label = pl.col("label")
    people = votes.filter(pl.col("kind") == "human", label.is_in(PREFERENCES))
    return (
        people.group_by("pair_id")
        .agg(
            pl.coalesce(pl.when((label == name).mean() > 0.5).then(pl.lit(name)) for name in PREFERENCES).alias("label")
        )
        .sort("pair_id")
    )


def human_targets(cells: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """What the humans of each pair say together, each weighted by its reliability; `human_label` counts heads.

    Args:
        cells: `human_cells`.
        known: `pair_id, known` of control pairs, whose answer stands above any vote.

    Returns:
        `pair_id, target` (1 a, 0 b, 0.5 split; null where neither is better) and `tie` (1 neither is better).
        More than half of the humans must say tie for it to be one.
    """
    weighed = (
        cells.group_by("pair_id")
        .agg(
            pl.col("log_odds").sum().alias("_sum"),
            ((pl.col("ties") * pl.col("share")).sum() / pl.col("share").sum()).alias("_ties"),
        )
        .with_columns(pl.when(pl.col("_sum").abs() < 1e-9).then(0.0).otherwise(pl.col("_sum").sign()).alias("_side"))
    )
    joined = weighed.join(known, on="pair_id", how="full", coalesce=True)
    tie = pl.when(pl.col("known").is_not_null()).then(pl.col("known") == 0).otherwise(pl.col("_ties") > 0.5)
    side = pl.coalesce(pl.col("known").cast(pl.Float64), pl.col("_side"))
    return joined.select(
        "pair_id",
        pl.when(tie).then(None).otherwise((side + 1) / 2).alias("target"),
        tie.cast(pl.Float64).alias("tie"),
    ).sort("pair_id")

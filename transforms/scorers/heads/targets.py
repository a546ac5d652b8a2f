"""What the reward heads train on: soft labels and weights from source, humans and other voters."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from transforms.stats.bounded_sample import draw, labelled_first

_VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class TargetWeights:
    """Weight of one label of each kind. Silver (other voters' mean) counts only if nobody else speaks."""

    source: float = 1.0
    human: float = 3.0
    silver: float = 0.5


def targets(pairs: pl.DataFrame, votes: pl.DataFrame, weights: TargetWeights, voter: str) -> pl.DataFrame:
    """Soft label and weight per pair.

    Args:
        pairs: `pair_id` and `source_label`.
        votes: rows of `votes`; states are left out, and so are the votes of `voter` itself and of every
            reward voter (they may have been trained on the same labels).
        weights: weights by kind of label.

    Returns:
        `y` in [0, 1] (1: a better, tie: 0.5; null if nobody speaks) and `weight`, in the order of `pairs`.
        Each human counts `human`; silver is the mean over voter groups of the group's mean.
    """
    valid = votes.filter(pl.col("label").is_in(list(_VALUE)) & (pl.col("voter") != voter)).with_columns(
        value=pl.col("label").replace_strict(_VALUE, return_dtype=pl.Float64)
    )
    human = (
        valid.filter(pl.col("kind") == "human").group_by("pair_id").agg(human=pl.col("value").mean(), n_human=pl.len())
    )
    silver = (
        valid.filter(pl.col("kind").is_in(["judge", "rule"]))
        .group_by("pair_id", "voter_group")
        .agg(pl.col("value").mean())
        .group_by("pair_id")
        .agg(silver=pl.col("value").mean())
    )
    joined = (
        pairs.select(
            "pair_id",
            source=pl.col("source_label").replace_strict(_VALUE, default=None, return_dtype=pl.Float64),
        )
        .join(human, on="pair_id", how="left", maintain_order="left")
        .join(silver, on="pair_id", how="left", maintain_order="left")
    )
    w_source = pl.when(pl.col("source").is_not_null()).then(weights.source).otherwise(0.0)
    w_human = weights.human * pl.col("n_human").fill_null(0).cast(pl.Float64)
    spoken = w_source + w_human
    first_hand = (w_source * pl.col("source").fill_null(0.0) + w_human * pl.col("human").fill_null(0.0)) / spoken
    return joined.select(
        y=pl.when(spoken > 0.0).then(first_hand).otherwise(pl.col("silver")),
        weight=pl.when(spoken > 0.0)
        .then(spoken)
        .otherwise(pl.when(pl.col("silver").is_not_null()).then(weights.silver).otherwise(0.0)),
    )


def answered(votes: pl.DataFrame) -> pl.Series:
    """Ids of the pairs that people answered, sorted."""
    valid = (pl.col("kind") == "human") & pl.col("label").is_in(list(_VALUE))
    return votes.filter(valid)["pair_id"].unique().sort()


def stratified_prompts(pairs: pl.DataFrame, max_pairs: int, labelled: pl.Series | None = None) -> pl.DataFrame:
    """At most about `max_pairs` rows, by pair_id; all of `pairs` if it is small enough.

    Args:
        pairs: `pair_id, prompt_id`, what it has of `origin, kind, language`, and optionally `drawn`, false for pairs
            that are in a sample for their labels only.
        max_pairs: most rows.
        labelled: ids of pairs to keep first (`labelled_first`).

    Returns:
        The rows with `drawn`: true for those of whole prompts, of which each stratum (origin, kind, language) has the
        same share, in the order of their draw; false for those that are kept for their labels only.
    """
    ordered = pairs.sort("pair_id")
    ordered = ordered if "drawn" in pairs.columns else ordered.with_columns(pl.lit(value=True).alias("drawn"))
    if pairs.height <= max_pairs:
        return ordered
    strata = [name for name in ("origin", "kind", "language") if name in pairs.columns]
    ordered = ordered.with_columns(draw())
    ids = pl.Series([], dtype=pl.String) if labelled is None else labelled
    kept = labelled_first(ordered.filter(pl.col("pair_id").is_in(ids.implode())), max_pairs)["pair_id"]
    pool = ordered.filter("drawn")
    sizes = pool.group_by(*strata, "prompt_id").agg(pl.col("draw").first(), n=pl.len()).sort("draw", "prompt_id")
    taken = sizes.filter(
        (pl.col("n").cum_sum().over(strata, order_by="draw") - pl.col("n"))
        < pl.col("n").sum().over(strata) * ((max_pairs - len(kept)) / max(pool.height, 1))
    )
    whole = pool.join(taken.select(*strata, "prompt_id"), on=[*strata, "prompt_id"], how="semi", nulls_equal=True)
    return (
        ordered.with_columns(drawn=pl.col("pair_id").is_in(whole["pair_id"].implode()))
        .filter(pl.col("drawn") | pl.col("pair_id").is_in(kept.implode()))
        .drop("draw")
    )

"""What the voters' agreement says before any person's label: how the fuser uses `transforms.stats.agreement`."""

from __future__ import annotations

import polars as pl

from transforms.fusers.posterior.design import length_feature
from transforms.stats.agreement.learn import Agreement, learn_agreement, truth_log_odds
from transforms.stats.vote_cells import cells_of

MAX_PAIRS = 20_000  # of which agreement is learned: a correlation of so many is right to a hundredth
TAUGHT = "reward"  # kind of voters that may have learned from the source's labels, and so bear no witness of them


def lengths(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, prompt_id, log_ratio` of the pairs; log_ratio is 0 where lengths are not known."""
    ratio = length_feature() if "length_a" in pairs.columns else pl.lit(0.0)
    return pairs.select("pair_id", "prompt_id", ratio.alias("log_ratio"))


def agreement_of(votes: pl.DataFrame, pairs: pl.DataFrame, voters: pl.DataFrame) -> Agreement:
    """The model of agreement, learned on the random part of the sample (`drawn`).

    Args:
        votes: `valid_votes` of voters that are not human.
        pairs: the sample: `pair_id, prompt_id`, lengths, and `drawn` if it holds more than a random part.
        voters: `opinionated` voters with their slots.
    """
    random = pairs.filter(pl.col("drawn")) if "drawn" in pairs.columns else pairs
    random = random.sort("prompt_id", "pair_id").head(MAX_PAIRS)
    own = votes.join(random.select("pair_id"), on="pair_id", how="semi", maintain_order="left")
    kinds = dict(voters.select("voter", "kind").iter_rows())
    taught = frozenset(voter for voter, kind in kinds.items() if kind == TAUGHT)
    return learn_agreement(cells_of(own, voters), lengths(random), kinds, taught)


def with_offset(model: Agreement, cells: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`pairs` with `offset`, the part of the agreement's log-odds that is no voter's: what lengths explain.

    A vote of voter v adds weight x discount x sign, and what is left of the exact log-odds depends on the length, and
    on who voted, alone: a judge that likes long texts says little by preferring the longer one.

    Args:
        model: the agreement, identified.
        cells: `pair_id, voter, slot, opinion` of the pairs.
        pairs: `pair_id, prompt_id` and lengths.
    """
    parts = {v.voter: v.weight * v.discount for v in model.voters}
    known = pl.DataFrame(
        {"voter": list(parts), "_part": list(parts.values())}, schema={"voter": pl.String, "_part": pl.Float64}
    )
    linear = (
        cells.filter(pl.col("voter") == pl.col("slot"))
        .join(known, on="voter", maintain_order="left")
        .group_by("pair_id", maintain_order=True)
        .agg((pl.col("_part") * pl.col("opinion").sign()).sum().alias("_linear"))
    )
    whole = truth_log_odds(model, cells, lengths(pairs.unique("pair_id", maintain_order=True)))
    offset = whole.join(linear, on="pair_id", how="left").select(
        "pair_id", (pl.col("z") - pl.col("_linear").fill_null(0.0)).alias("offset")
    )
    return pairs.join(offset, on="pair_id", how="left", maintain_order="left")

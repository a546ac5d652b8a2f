"""Which pairs a bounded sample holds: those that people labelled first, then whole prompts by their draw."""

from __future__ import annotations

import math

import polars as pl

RANDOM_SHARE = 0.2  # of the limit, kept for prompts drawn at random however many pairs are labelled


def draw() -> pl.Expr:
    """A prompt's draw: a number in [0, 2^32) that neither its bucket nor its fold depends on.

    It is eight digits in the middle of the prompt's id, which is a hash; so a sample of a sample is one too.
    """
    return pl.col("prompt_id").str.slice(16, 8).str.to_integer(base=16, dtype=pl.Int64).alias("draw")


def labelled_first(labelled: pl.DataFrame, limit: int) -> pl.DataFrame:
    """`pair_id` of the labelled pairs (`pair_id, draw`) that stay: all that leave `RANDOM_SHARE` of the limit, else
    those with the lowest draws."""
    most = limit - math.ceil(limit * RANDOM_SHARE)
    return labelled.sort("draw", "pair_id").head(most).select("pair_id")


def chosen(prompts: pl.DataFrame, labelled: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, int]:
    """Which labelled pairs stay, and up to which draw prompts are taken whole.

    Args:
        prompts: `draw, n`: pairs of each prompt; at least one row.
        labelled: `pair_id, draw` of the pairs that people answered or whose answer is known.
        limit: most pairs.

    Returns:
        `labelled_first`, and the largest draw taken. The prompt with the lowest draw is always taken, so that one huge
        prompt cannot leave the random part empty.
    """
    kept = labelled_first(labelled, limit)
    ordered = prompts.group_by("draw").agg(pl.col("n").sum()).sort("draw")
    fitting = ordered.filter(pl.col("n").cum_sum() <= limit - kept.height)
    last = fitting["draw"].max() if fitting.height else ordered["draw"].min()
    return kept, int(last)  # type: ignore[arg-type]

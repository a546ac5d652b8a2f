"""How the judges behave: ties, failures, order flips, biases, agreement with humans, tokens."""

from __future__ import annotations

import polars as pl

from transforms.stats.judge_quality import context_worth, human_labels, judge_statistics

MOST_JUDGES = 40


def judge_table(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """`judge_statistics` and `context_worth` of the judges with the most votes, by name.

    Args:
        votes: rows of `votes` on the pairs of `sample`.
        sample: pair_id, length_a, length_b (characters).
    """
    judges = votes.filter(pl.col("kind") == "judge")
    if judges.is_empty():
        return pl.DataFrame()
    busy = judges["voter"].value_counts().sort("count", "voter", descending=[True, False]).head(MOST_JUDGES)["voter"]
    judges = judges.filter(pl.col("voter").is_in(busy.to_list()))
    humans = human_labels(votes)
    table = judge_statistics(judges, sample.select("pair_id", "length_a", "length_b"), humans)
    return table.join(context_worth(judges, humans), on="voter", how="left").sort("voter")

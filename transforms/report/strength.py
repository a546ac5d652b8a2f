"""Strength of a pair's preference, and how far labels agree with people by band of it (Secrets of RLHF II, 2024).

The paper's strength is the mean margin of ten reward models towards the label that was given; ours is what all voters
but people and the source itself add to the log-odds, so nobody is measured by his own vote. The paper finds that labels
agree with GPT-4 the more, the stronger a pair is, and that many labels of the weakest bands are wrong.
"""

from __future__ import annotations

import polars as pl

from transforms.publish.rows import PUBLISHED
from transforms.report.voters import human_majority
from transforms.stats.controls import CONTROL
from transforms.stats.judge_quality import wilson

BANDS = 10
_SIGN = {"a": 1.0, "b": -1.0}


def strengths(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """What the voters that are neither people nor the source say, towards the source's label.

    Args:
        votes: votes of the sample's pairs.
        sample: verdicts with `source_label`.

    Returns:
        `pair_id, side, strength` of the pairs on which such a voter voted. `side` is 1 if the source says a, -1 if b,
        and `strength` the log-odds for that side. If no pair has a source's label, `side` is what the voters
        themselves prefer, and `strength` is never negative.
    """
    others = pl.element().struct.field("voter").is_in(_left_out(votes)).not_()
    log_odds = pl.col("contributions").list.eval(pl.when(others).then(pl.element().struct.field("log_odds"))).list
    pairs = sample.select(
        "pair_id",
        side=pl.col("source_label").replace_strict(_SIGN, default=None, return_dtype=pl.Float64),
        log_odds=pl.when(log_odds.drop_nulls().list.len() > 0).then(log_odds.sum()),
    )
    if pairs["side"].null_count() == pairs.height:
        pairs = pairs.with_columns(side=pl.col("log_odds").sign())
    # Rounded, and without a minus before zero: the last bit of a sum depends on the machine, a report's bytes must not.
    strength = (pl.col("log_odds") * pl.col("side")).round(9) + 0.0
    return pairs.drop_nulls().select("pair_id", "side", strength=strength)


def strength_bands(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """Agreement by tenths of the pairs, the weakest first; pairs of equal strength are in one band.

    Args:
        votes, sample: as `strengths` takes them.

    Returns:
        A row per band: `low, high` (strength), `pairs`; `expected`, the mean P(the side is right) by the posterior; for
        people (the label that most of them gave) and for the published label each how many there are (`n_people`,
        `n_published`: published pairs that people labelled too), the share that agrees (`agree`, `agree_published`: of
        people's labels with the side, and with the published label) and Wilson's interval of it (`_low`, `_high`);
        `has_source`: whether the side is the source's.
    """
    p_side = pl.when(pl.col("side") > 0).then("p_a").otherwise(1 - pl.col("p_a")) * (1 - pl.col("p_tie"))
    label = pl.col("label").replace_strict(_SIGN, default=0.0, return_dtype=pl.Float64)
    published = sample.select(
        "pair_id", "p_a", "p_tie", published=pl.when(pl.col("action").is_in(PUBLISHED)).then(label)
    )
    pairs = (
        strengths(votes, sample)
        .join(published, on="pair_id")
        .join(human_majority(votes), on="pair_id", how="left")
        .with_columns(band=(pl.col("strength").rank("min") - 1) * BANDS // pl.len(), expected=p_side)
        .sort("pair_id")
    )
    people = pl.col("human").is_not_null()
    both = people & pl.col("published").is_not_null()
    counted = (
        pairs.group_by("band", maintain_order=True)
        .agg(
            low=pl.col("strength").min(),
            high=pl.col("strength").max(),
            pairs=pl.len(),
            expected=pl.col("expected").mean(),
            n_people=people.sum(),
            hits=(pl.col("human") == pl.col("side")).sum(),
            n_published=both.sum(),
            hits_published=(both & (pl.col("human") == pl.col("published"))).sum(),
        )
        .sort("band")
    )
    shares = {
        "agree": (pl.col("hits"), pl.col("n_people")),
        "agree_published": (pl.col("hits_published"), pl.col("n_published")),
    }
    columns: dict[str, pl.Expr] = {}
    for name, (hits, n) in shares.items():
        low, high = wilson(hits, n)
        values = {name: hits / n, f"{name}_low": low, f"{name}_high": high}
        columns |= {key: pl.when(n > 0).then(value) for key, value in values.items()}
    has_source = pl.lit(sample["source_label"].is_in(list(_SIGN)).any())
    return counted.with_columns(**columns, has_source=has_source).drop("band", "hits", "hits_published")


def _left_out(votes: pl.DataFrame) -> list[str]:
    """People and sources, and the known answers of controls."""
    named = votes.filter(pl.col("kind").is_in(["human", "source"]))["voter"].unique().to_list()
    return sorted({*named, CONTROL})

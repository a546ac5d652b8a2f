"""How the voters behave: counts, agreement, calibration, position bias and length bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit

from transforms.stats.calibration import reliability_bins
from transforms.stats.controls import CONTROL
from transforms.stats.human_labels import human_label

BINS = 10
MOST_VOTERS = 24
_SIGN = pl.col("label").replace_strict({"a": 1, "b": -1}, default=0, return_dtype=pl.Int8)


def voter_table(all_votes: pl.LazyFrame, votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """One row per voter: votes by label (exact), agreement with the verdict and mean weight (sampled).

    Columns: voter, kind, group, votes, a, b, tie, failed (invalid, refused or error), tokens, agrees (share of
    decisive votes that equal the verdict's label), agrees_human (the same against the human majority),
    weight (mean absolute log-odds added), decided (share of verdicts in which it counted most).
    """
    counts = (
        all_votes.group_by("voter")
        .agg(
            pl.col("kind").first(),
            pl.col("voter_group").first().alias("group"),
            pl.len().alias("votes"),
            *((pl.col("label") == label).sum().alias(label) for label in ("a", "b", "tie")),
            failed=pl.col("label").is_in(["invalid", "refused", "error"]).sum(),
            tokens=(pl.col("tokens_in") + pl.col("tokens_out")).sum(),
        )
        .collect(engine="streaming")
    )
    decisive = votes.with_columns(sign=_SIGN).filter(pl.col("sign") != 0)
    fused = sample.select("pair_id", verdict=_SIGN).filter(pl.col("verdict") != 0)
    agrees = (
        decisive.join(fused, on="pair_id").group_by("voter").agg(agrees=(pl.col("sign") == pl.col("verdict")).mean())
    )
    humans = human_majority(votes)
    with_humans = (
        decisive.filter(pl.col("kind") != "human")
        .join(humans, on="pair_id")
        .group_by("voter")
        .agg(agrees_human=(pl.col("sign") == pl.col("human")).mean(), n_human=pl.len())
    )
    pieces = sample.select("pair_id", "contributions").explode("contributions").drop_nulls().unnest("contributions")
    size = pl.col("log_odds").abs()
    weights = (
        pieces.with_columns(most=(size == size.max().over("pair_id")) & (size > 0))
        .group_by("voter")
        .agg(weight=size.mean(), decided=pl.col("most").sum() / max(sample.height, 1))
    )
    table = counts
    for other in (agrees, with_humans, weights):
        table = table.join(other, on="voter", how="left")
    return table.sort("weight", "voter", descending=[True, False], nulls_last=True)


def human_majority(votes: pl.DataFrame) -> pl.DataFrame:
    """pair_id, human (1 for a, -1 for b) of the pairs of which most people prefer one response (`human_label`)."""
    return human_label(votes).select("pair_id", human=_SIGN).filter(pl.col("human") != 0)


def agreement(votes: pl.DataFrame) -> pl.DataFrame:
    """Share of pairs on which two voters agree, of those on which both are decisive; the 24 busiest voters."""
    busy = votes["voter"].value_counts().sort("count", "voter", descending=[True, False]).head(MOST_VOTERS)["voter"]
    names = sorted(busy.to_list())
    signs = (
        votes.filter(pl.col("voter").is_in(names))
        .group_by("pair_id", "voter")
        .agg(sign=_SIGN.sum().sign())
        .filter(pl.col("sign") != 0)
    )
    empty = {"voter": pl.String, "other": pl.String, "n": pl.Int64, "agreement": pl.Float64}
    if signs.is_empty():
        return pl.DataFrame(schema=empty)
    wide = signs.pivot("voter", index="pair_id", values="sign")
    names = [n for n in names if n in wide.columns]
    matrix = wide.select(names).fill_null(0).to_numpy().astype(np.float32)
    voted = (matrix != 0).astype(np.float32)
    both, balance = voted.T @ voted, matrix.T @ matrix
    rows = [
        (
            names[i],
            names[j],
            int(both[i, j]),
            float((both[i, j] + balance[i, j]) / 2 / both[i, j]) if both[i, j] else None,
        )
        for i in range(len(names))
        for j in range(len(names))
    ]
    return pl.DataFrame(rows, schema=empty, orient="row")


def reliability(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """Agreement with humans of what the posterior is without the humans' own contributions: in-sample calibration.

    The weights were fitted on these labels, so this flatters; see `out_of_fold`. A known answer is left out too.
    Rows are `reliability_bins`, on the pairs of which most people prefer one response.
    """
    voters = votes.filter(pl.col("kind") == "human")["voter"].unique().to_list()
    others = pl.col("contributions").list.eval(
        pl.when(~pl.element().struct.field("voter").is_in([*voters, CONTROL])).then(
            pl.element().struct.field("log_odds")
        )
    )
    margins = sample.select("pair_id", log_odds=pl.col("prior") + others.list.sum())
    both = margins.join(human_majority(votes), on="pair_id")
    p_a, target = expit(both["log_odds"].to_numpy()), (both["human"] > 0).cast(pl.Float64).to_numpy()
    return _bins(reliability_bins(p_a, target, BINS))


def out_of_fold(calibration: Mapping[str, Any] | None) -> pl.DataFrame:
    """The fuser's own calibration as a table like `reliability`'s: each label predicted by weights that did not see
    its prompt. Empty if the fuser measured none."""
    return _bins([] if calibration is None else calibration["bins"])


def _bins(bins: list[dict[str, float]]) -> pl.DataFrame:
    floats = dict.fromkeys(("low", "high", "confidence", "accuracy"), pl.Float64)
    return pl.DataFrame(bins, schema={**floats, "n": pl.Int64})


def position_bias(votes: pl.DataFrame) -> pl.DataFrame:
    """Per voter shown an order: share of decisive votes for the response shown first; 0.5 is unbiased.

    `inconsistent` is the share of pairs judged decisively in both orders whose two labels differ.
    """
    shown = votes.with_columns(sign=_SIGN).filter(pl.col("order").is_in(["ab", "ba"]) & (pl.col("sign") != 0))
    first = ((pl.col("order") == "ab") == (pl.col("sign") == 1)).mean()
    base = shown.group_by("voter").agg(n=pl.len(), first=first)
    both = (
        shown.group_by("voter", "pair_id", "sample")
        .agg(orders=pl.col("order").n_unique(), labels=pl.col("sign").n_unique())
        .filter(pl.col("orders") == 2)
        .group_by("voter")
        .agg(n_both=pl.len(), inconsistent=(pl.col("labels") == 2).mean())
    )
    return base.join(both, on="voter", how="left").sort("voter")


def length_bias(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """Per voter: how often its decisive votes name the longer response, and how often the verdict does there."""
    longer = (pl.col("length_a") - pl.col("length_b")).sign()
    pairs = sample.select("pair_id", verdict=_SIGN, longer=longer).filter(
        (pl.col("longer") != 0) & (pl.col("verdict") != 0)
    )
    return (
        votes.with_columns(sign=_SIGN)
        .filter(pl.col("sign") != 0)
        .join(pairs, on="pair_id")
        .group_by("voter")
        .agg(
            n=pl.len(),
            longer=(pl.col("sign") == pl.col("longer")).mean(),
            longer_fused=(pl.col("verdict") == pl.col("longer")).mean(),
        )
        .sort("voter")
    )

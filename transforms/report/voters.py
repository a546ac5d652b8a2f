"""How the voters behave: counts, agreement, calibration and length bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import scipy

from transforms.stats.calibration import reliability_bins
from transforms.stats.controls import CONTROL
from transforms.stats.human_labels import human_label
from transforms.stats.judge_quality import agreement_with_humans, longer_rates

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
    others = votes.filter(pl.col("kind") != "human")
    with_humans = agreement_with_humans(others, human_label(votes)).select(
        "voter", agrees_human="agreement", n_human="n_compared"
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
    p_a, target = scipy.special.expit(both["log_odds"].to_numpy()), (both["human"] > 0).cast(pl.Float64).to_numpy()
    return _bins(reliability_bins(p_a, target, BINS))


def out_of_fold(calibration: Mapping[str, Any] | None) -> pl.DataFrame:
    """The fuser's own calibration as a table like `reliability`'s: each label predicted by weights that did not see
    its prompt. Empty if the fuser measured none."""
    return _bins([] if calibration is None else calibration["bins"])


def _bins(bins: list[dict[str, float]]) -> pl.DataFrame:
    floats = dict.fromkeys(("low", "high", "confidence", "accuracy"), pl.Float64)
    return pl.DataFrame(bins, schema={**floats, "n": pl.Int64})


def length_bias(votes: pl.DataFrame, sample: pl.DataFrame) -> pl.DataFrame:
    """Per voter: how often its strict votes name the longer response (`longer`), and how often the verdict does there
    (`longer_fused`), on the pairs whose verdict names a response."""
    decided = sample.filter(pl.col("label").is_in(["a", "b"]))
    cast = votes.join(decided.select("pair_id"), on="pair_id", how="semi")
    rates = longer_rates(cast, decided.select("pair_id", "length_a", "length_b"), decided.select("pair_id", "label"))
    return rates.rename({"longer_rate": "longer", "human_longer_rate": "longer_fused"}).drop_nulls().sort("voter")

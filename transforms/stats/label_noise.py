"""How many source labels are wrong: per pair, over a data set, and what the policies need to decide on it."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl
import scipy

from schemas.tables import Verdicts, conform


def decision_frame(fused: pl.DataFrame, pairs: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """What a policy decides on: a fuser's output with `noise`, and `source_label`, `mu`, `sigma` beside it.

    Args:
        fused: a fuser's verdicts.
        pairs: `pair_id, source_label`.
        votes: the `votes` table; only those of kind "reward" are read.

    Returns:
        One row a row of `fused`. `noise` = P(source label is wrong), null without one; `mu`, `sigma` as in
        `ensemble_moments`, null where no reward model voted.
    """
    labels = pairs.select("pair_id", "source_label").unique("pair_id")
    return (
        fused.join(labels, on="pair_id", how="left", maintain_order="left")
        .with_columns(source_noise().alias("noise"))
        .join(ensemble_moments(votes), on="pair_id", how="left", maintain_order="left")
    )


def source_noise() -> pl.Expr:
    """P(source label is wrong) of a frame with `source_label`, `p_a` and `p_tie`; null without a source label.

    A source that says a is wrong where b is better or neither is.
    """
    source, p_a, p_tie = pl.col("source_label"), pl.col("p_a"), pl.col("p_tie")
    right = (
        pl.when(source == "a")
        .then(p_a * (1 - p_tie))
        .when(source == "b")
        .then((1 - p_a) * (1 - p_tie))
        .when(source == "tie")
        .then(p_tie)
    )
    return (1 - right).clip(0.0, 1.0)


def ensemble_moments(votes: pl.DataFrame) -> pl.DataFrame:
    """Mean and spread of the reward models' margins r(a) - r(b) on each pair.

    A vote brings the moments of its own ensemble in `aspects` (`mu`, `sigma`); else its margin is
    score_a - score_b, else logit(p_a), with sigma 0. Several reward voters are one ensemble: the mean of the
    means, and the root of mean variance plus variance of the means.

    Returns:
        `pair_id, mu, sigma`.
    """
    reward = votes.filter((pl.col("kind") == "reward") & pl.col("label").is_in(["a", "b", "tie"]))
    moments = [_own_moments(text) for text in reward["aspects"].to_list()]
    bounded = pl.col("p_a").clip(1e-6, 1 - 1e-6)
    return (
        reward.with_columns(
            pl.Series("_mu", [m for m, _ in moments], dtype=pl.Float64),
            pl.Series("_sigma", [s for _, s in moments], dtype=pl.Float64),
        )
        .with_columns(
            pl.coalesce(
                "_mu",
                pl.col("score_a") - pl.col("score_b"),
                bounded.map_batches(scipy.special.logit, return_dtype=pl.Float64),
            ).alias("_mu")
        )
        .filter(pl.col("_mu").is_finite())
        .sort("pair_id", "vote_id")
        .group_by("pair_id", maintain_order=True)
        .agg(
            pl.col("_mu").mean().alias("mu"),
            ((pl.col("_sigma") ** 2).mean() + pl.col("_mu").var(ddof=0)).sqrt().alias("sigma"),
        )
    )


def worse_chosen() -> pl.Expr:
    """P(the source's label names the worse response), given that one is better; null unless it names one.

    Of a frame with `source_label` and `p_a`. `noise` counts a tie against the label, as the policies do; how many
    labels are wrong is asked of pairs that have a better response.
    """
    source = pl.col("source_label")
    return pl.when(source == "a").then(1 - pl.col("p_a")).when(source == "b").then(pl.col("p_a"))


def action_shares(decided: pl.DataFrame) -> dict[str, float]:
    """Share of each action, sorted by name: what is predicted from a sample and reported of the whole."""
    counts = decided["action"].value_counts().sort("action")
    return {action: count / len(decided) for action, count in counts.iter_rows()}


def with_actions(frame: pl.DataFrame, action: pl.Expr, reasons: list[tuple[str, pl.Expr]]) -> pl.DataFrame:
    """`frame` as `verdicts`, with `action` and the codes of all `reasons` that hold, in their order."""
    codes = [pl.when(holds).then(pl.lit(code)) for code, holds in reasons]
    return conform(
        frame.with_columns(action.alias("action"), pl.concat_list(codes).list.drop_nulls().alias("reasons")), Verdicts
    )


def _own_moments(aspects: str | None) -> tuple[float | None, float]:
    parsed: Any = orjson.loads(aspects) if aspects else None
    if not isinstance(parsed, dict):
        return None, 0.0
    mu, sigma = parsed.get("mu"), parsed.get("sigma")
    return (
        float(mu) if isinstance(mu, (int, float)) else None,
        float(sigma) if isinstance(sigma, (int, float)) else 0.0,
    )

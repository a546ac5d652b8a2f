"""How many source labels are wrong: per pair, over a data set, and what the policies need to decide on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
import polars as pl
from scipy.special import logit, ndtri

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
                "_mu", pl.col("score_a") - pl.col("score_b"), bounded.map_batches(logit, return_dtype=pl.Float64)
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


def noise_sums(verdicts: pl.DataFrame) -> dict[str, float]:
    """What `noise_rate` needs of some prompts, to be added up over buckets; all pairs of a prompt must come together.

    Args:
        verdicts: `prompt_id, noise`.

    Returns:
        With S the sum of `noise` over a prompt's n pairs with a source label: the sums over prompts of n, S, n^2,
        n S and S^2, and of noise (1 - noise) over pairs.
    """
    noise = pl.col("noise")
    prompts = (
        verdicts.filter(noise.is_not_null())
        .sort("prompt_id", "noise")
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.len().cast(pl.Float64).alias("n"), noise.sum().alias("s"), (noise * (1 - noise)).sum().alias("chance"))
    )
    n, s = pl.col("n"), pl.col("s")
    sums = prompts.select(
        n.sum(),
        s.sum(),
        pl.col("chance").sum(),
        (n * n).sum().alias("nn"),
        (n * s).sum().alias("ns"),
        (s * s).sum().alias("ss"),
    )
    by_name: dict[str, float] = sums.row(0, named=True)
    return by_name


def noise_rate(sums: Mapping[str, float], level: float = 0.95) -> dict[str, float | int] | None:
    """Estimated share of wrong source labels, with an interval; None without source labels.

    Args:
        sums: `noise_sums`, added up.
        level: coverage of the interval.

    Returns:
        `rate`, `low`, `high`, `level`, `n` (pairs with a source label). The rate is the mean of `noise`. Its variance
        is that of a mean over prompts (pairs of one prompt are not independent) plus the chance that each label falls
        as its probability says. The interval is right in so far as the posterior is calibrated; a random audit by
        people needs no such belief.
    """
    n = sums["n"]
    if not n:
        return None
    rate = sums["s"] / n
    spread = max(sums["ss"] - 2 * rate * sums["ns"] + rate * rate * sums["nn"], 0.0)
    reach = float(ndtri(0.5 + level / 2)) * math.sqrt(spread + sums["chance"]) / n
    return {"rate": rate, "low": max(0.0, rate - reach), "high": min(1.0, rate + reach), "level": level, "n": int(n)}


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

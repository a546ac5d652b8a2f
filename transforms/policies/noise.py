"""How many source labels are wrong: per pair, over a data set, and what the policies need to decide on it."""

from __future__ import annotations

import math
from typing import Any

import orjson
import polars as pl
from scipy.special import ndtri

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
            pl.coalesce("_mu", pl.col("score_a") - pl.col("score_b"), (bounded / (1 - bounded)).log()).alias("_mu")
        )
        .filter(pl.col("_mu").is_finite())
        .sort("pair_id", "vote_id")
        .group_by("pair_id", maintain_order=True)
        .agg(
            pl.col("_mu").mean().alias("mu"),
            ((pl.col("_sigma") ** 2).mean() + pl.col("_mu").var(ddof=0)).sqrt().alias("sigma"),
        )
    )


def noise_rate(verdicts: pl.DataFrame, level: float = 0.95) -> dict[str, float | int]:
    """Estimated share of wrong source labels, with an interval.

    Args:
        verdicts: `prompt_id, noise`.
        level: coverage of the interval.

    Returns:
        `rate`, `low`, `high`, `n` (pairs with a source label). The rate is the mean of `noise`. Its variance is
        that of a mean over prompts (pairs of one prompt are not independent) plus the chance that each label
        falls as its probability says. The interval is right in so far as the posterior is calibrated; where
        there is a random audit by humans, `audited_noise_rate` needs no such belief.
    """
    labelled = verdicts.filter(pl.col("noise").is_not_null())
    n = len(labelled)
    if not n:
        return {"rate": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    rate = float(labelled.select(pl.col("noise").mean()).item())
    clusters = (
        labelled.sort("prompt_id")
        .group_by("prompt_id", maintain_order=True)
        .agg(
            (pl.col("noise") - rate).sum().alias("_sum"),
            (pl.col("noise") * (1 - pl.col("noise"))).sum().alias("_chance"),
        )
    )
    spread = float(clusters.select((pl.col("_sum") ** 2).sum()).item())
    chance = float(clusters.select(pl.col("_chance").sum()).item())
    reach = float(ndtri(0.5 + level / 2)) * math.sqrt(spread + chance) / n
    return {"rate": rate, "low": max(0.0, rate - reach), "high": min(1.0, rate + reach), "n": n}


def audited_noise_rate(wrong: int, n: int, level: float = 0.95) -> dict[str, float | int]:
    """Share of wrong source labels among `n` pairs drawn at random and checked by humans: Wilson's (1927) interval."""
    if not 0 <= wrong <= n:
        raise ValueError(f"{wrong} wrong labels of {n}")
    if not n:
        return {"rate": math.nan, "low": 0.0, "high": 1.0, "n": 0}
    z = float(ndtri(0.5 + level / 2))
    p = wrong / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"rate": p, "low": max(0.0, centre - reach), "high": min(1.0, centre + reach), "n": n}


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

"""What a verdict says about the value of asking: outcome probabilities, loss, and the gain of one answer."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.rows import HUMAN

Floats = NDArray[np.float64]


def outcomes(candidates: pl.DataFrame) -> Floats:
    """P(a), P(b), P(tie) per candidate, shape (n, 3), rows summing to 1."""
    p_a, p_tie = (candidates[c].cast(pl.Float64).to_numpy() for c in ("p_a", "p_tie"))
    return np.stack([p_a * (1 - p_tie), (1 - p_a) * (1 - p_tie), p_tie], axis=1)


def loss(p: Floats, kind: str) -> Floats:
    """Expected loss of acting on beliefs `p` (last axis sums to 1).

    `zero_one`: probability that the published label is wrong; `brier`: expected squared error of the soft
    label, 1 - sum p^2; `log`: entropy in nats.
    """
    if kind == "zero_one":
        return np.asarray(1 - p.max(axis=-1))
    if kind == "brier":
        return np.asarray(1 - (p**2).sum(axis=-1))
    return np.asarray(-(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=-1))


def gain_of_answers(p: Floats, reliability: Floats | float, kind: str, answers: int = 1) -> Floats:
    """Expected reduction of `loss` by some more answers: the value of information (Raiffa and Schlaifer, 1961).

    Each annotator names the true outcome with probability `reliability` and each other one with equal
    probability, independently given the outcome; beliefs are updated by Bayes' rule and the loss is averaged
    over how many of the answers name each outcome.

    Args:
        p: beliefs, shape (n, 3).
        reliability: one number, or one per candidate, in [1/3, 1].
        answers: how many, at least 1.

    Returns:
        Shape (n,), at least 0: answers never make the best decision worse on average.
    """
    r = np.broadcast_to(np.asarray(reliability, dtype=np.float64), p.shape[:1])[:, None]
    after = np.zeros(len(p))
    for first in range(answers + 1):
        for second in range(answers + 1 - first):
            counts = np.array([first, second, answers - first - second])
            ways = math.factorial(answers) / math.prod(math.factorial(c) for c in counts)
            joint = ways * p * r**counts * ((1 - r) / 2) ** (answers - counts)
            evidence = joint.sum(axis=1, keepdims=True)
            posterior = np.divide(joint, evidence, out=np.zeros_like(joint), where=evidence > 0)
            after += evidence[:, 0] * loss(posterior, kind)
    return np.asarray(np.maximum(loss(p, kind) - after, 0.0))


def without_humans(candidates: pl.DataFrame) -> pl.DataFrame:
    """What was believed before any human answered, and whether humans turned it over.

    A verdict's log-odds are the prior plus its contributions, so the human ones can be taken off.

    Args:
        candidates: with `contributions` and `prior`; human voters are those named in the list column `humans`,
            where there is one, and those whose name starts with `HUMAN`.

    Returns:
        `margin_machine` (log-odds of a against b without human votes) and `flipped`, one row per candidate
        in the same order.
    """
    parts = _contributions(candidates)
    human = parts.filter("is_human").group_by("pair_id").agg(pl.col("log_odds").sum().alias("human"))
    every = parts.group_by("pair_id").agg(pl.col("log_odds").sum().alias("every"))
    rows = candidates.select("pair_id", "prior").join(every, on="pair_id", how="left", maintain_order="left")
    rows = rows.join(human, on="pair_id", how="left", maintain_order="left")
    now = pl.col("prior") + pl.col("every").fill_null(0.0)
    machine = now - pl.col("human").fill_null(0.0)
    return rows.select(machine.alias("margin_machine"), ((machine * now) < 0).alias("flipped"))


def _contributions(candidates: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, kind, voter, label, log_odds, is_human`: one row per contribution."""
    named = "humans" in candidates.columns
    columns = ["pair_id", "kind", "contributions", *(["humans"] if named else [])]
    parts = candidates.select(c for c in columns if c in candidates.columns)
    parts = parts.filter(pl.col("contributions").list.len() > 0).explode("contributions").unnest("contributions")
    is_human = pl.col("voter").str.starts_with(HUMAN)
    if named:
        is_human = is_human | pl.col("humans").list.contains(pl.col("voter")).fill_null(False)
    return parts.with_columns(is_human.alias("is_human"))


def human_agreement(labelled: pl.DataFrame) -> pl.DataFrame:
    """How often two humans gave the same answer, per kind of task.

    Returns:
        `kind` ("" where null), `compared` (pairs of answers to one pair) and `agreeing`.
    """
    parts = _contributions(labelled).with_columns(pl.col("kind").fill_null(""))
    answers = parts.filter("is_human", pl.col("label").is_in(["a", "b", "tie"]))
    counts = answers.group_by("kind", "pair_id", "label").agg(pl.len().alias("n"))
    per_pair = counts.group_by("kind", "pair_id").agg(
        (pl.col("n") * (pl.col("n") - 1)).sum().alias("same"), pl.col("n").sum().alias("m")
    )
    return (
        per_pair.group_by("kind")
        .agg(
            (pl.col("m") * (pl.col("m") - 1) / 2).sum().alias("compared"),
            (pl.col("same") / 2).sum().alias("agreeing"),
        )
        .sort("kind")
    )


def reliability_of(agreement: float) -> float:
    """P(right) of one annotator where two independent ones agree this often on three outcomes.

    Solves agreement = r^2 + (1 - r)^2 / 2 for r >= 1/3; chance agreement (1/3) or less gives 1/3.
    """
    return (1 + math.sqrt(max(0.0, 6 * agreement - 2))) / 3

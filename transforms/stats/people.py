"""What the answers say about the people who gave them, and about the judges: every statistic of one workspace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from transforms.stats.alpha import Alpha, krippendorff_alpha, pairwise_agreement
from transforms.stats.reliability import annotators, drift, judge_agreement, pair_agreement, suspicions

SLICES = ("kind", "language", "origin")


@dataclass(frozen=True)
class People:
    """Statistics of all answers; `answers` and `skips` count them, `pairs` what they are about."""

    answers: int
    skips: int
    pairs: int
    seconds: float | None  # median per answer
    alpha: Alpha  # of a, b and tie, nominal
    alpha_strength: Alpha  # of signed strength, interval
    agreement: float  # share of pairs of answers to one pair that are equal
    annotators: pl.DataFrame  # transforms.stats.reliability
    agreeing: pl.DataFrame
    drift: pl.DataFrame
    suspicions: pl.DataFrame
    judges: pl.DataFrame  # slice, value, voter, pairs, agreement
    waiting: int = 0  # pairs that still lack answers
    outlook: dict[str, Any] = field(
        default_factory=dict
    )  # what the next labels are expected to fix, and a bandit's regret

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; NaN becomes None."""
        out: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            if isinstance(value, pl.DataFrame):
                out[name] = value.fill_nan(None).to_dicts()
            elif isinstance(value, Alpha):
                out[name] = {k: _number(v) for k, v in value.__dict__.items()}
            else:
                out[name] = _number(value)
        return out


def people_statistics(
    answers: pl.DataFrame,
    verdicts: pl.DataFrame,
    known: pl.DataFrame,
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    *,
    waiting: int = 0,
    outlook: dict[str, Any] | None = None,
) -> People:
    """Every statistic of the answers.

    `both_bad` counts as a tie: both say that neither response is better.

    Args:
        answers: `annotations` rows with `shown` (ab or ba), one per pair and annotator.
        verdicts: `pair_id, prior, contributions` of the answered pairs.
        known: `pair_id, known_label` of controls.
        pairs: `pair_id, n_chars` and the columns of `SLICES`, of the answered pairs.
        votes: `pair_id, voter, kind, label` of the answered pairs; held-out answers count as human votes here.
        waiting: pairs that still lack answers.
        outlook: `labels` and `gain`: how many labels so many further answers are expected to fix.
    """
    answered = answers.filter(~pl.col("cancelled")).with_columns(pl.col("label").replace("both_bad", "tie"))
    sign = pl.col("label").replace_strict({"a": 1, "b": -1, "tie": 0}, return_dtype=pl.Int32)
    strength = pl.when(pl.col("label") == "tie").then(0).otherwise("strength")
    strengths = answered.select((sign * strength).alias("s"))["s"].cast(pl.Float64)
    median = answered["seconds"].median()
    humans = answered.select("pair_id", pl.col("annotator").alias("voter"), pl.lit("human").alias("kind"), "label")
    opinions = pl.concat([votes.filter(pl.col("kind") != "human").select(humans.columns), humans])
    judged = [
        judge_agreement(opinions, pairs.with_columns(pl.col(by).fill_null("unknown")), by)
        .rename({by: "value"})
        .select(pl.lit(by).alias("slice"), "value", "voter", "pairs", "agreement")
        for by in SLICES
    ]
    return People(
        answers=answered.height,
        skips=answers.height - answered.height,
        pairs=answered["pair_id"].n_unique(),
        seconds=None if median is None else float(median),  # type: ignore[arg-type]
        alpha=krippendorff_alpha(answered["pair_id"], answered["label"]),
        alpha_strength=krippendorff_alpha(answered["pair_id"], strengths, "interval"),
        agreement=pairwise_agreement(answered["pair_id"], answered["label"]),
        annotators=annotators(answers, verdicts, known),
        agreeing=pair_agreement(answered),
        drift=drift(answers, verdicts),
        suspicions=suspicions(answered, known, pairs.select("pair_id", "n_chars")),
        judges=pl.concat(judged).sort("slice", "value", "voter"),
        waiting=waiting,
        outlook=outlook or {},
    )


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value

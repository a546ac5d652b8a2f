"""Each annotator in figures: agreement, controls, speed, drift, and what speaks for careless answers.

All functions are pure and linear in the number of answers. `answers` are `annotations` rows joined with
`shown` (ab or ba: which stored response stood first; null where it is not known); skips are counted but never compared.
"""

from __future__ import annotations

import polars as pl
import scipy

from schemas.tables import PREFERENCES
from transforms.stats.human_labels import human_label

ALPHA = 0.01  # a careless annotator is suspected only on evidence this unlikely by chance

READ_PER_SECOND = 75.0  # characters; three times the mean silent reading speed (Brysbaert 2019)

_ABOVE_CHANCE = 0.05  # agreement that somebody who reads has at least, above what unrelated answers give
_SIDES = ("a", "b")


def annotators(answers: pl.DataFrame, verdicts: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """One row per annotator.

    Args:
        answers: `pair_id, annotator, label, cancelled, seconds, updated_at, shown`.
        verdicts: `pair_id, prior, contributions`: the fused model, whose opinion without this annotator's own
            contribution is what the annotator is compared with.
        known: `pair_id, known_label` of controls.

    Returns:
        `annotator, answers, skips, seconds` (median), `reliability` (mean probability, under the fused model
        without the annotator, of the side they chose; 0.5 is chance), `bias_first` (share of preferences for
        the response shown first minus 1/2), `ties` (share), `controls, controls_right`, sorted by name.
    """
    answered = _answered(answers)
    fused = _without_self(answered, verdicts)
    chose = pl.when(pl.col("label") == "a").then("p_a").otherwise(1 - pl.col("p_a"))
    per = answered.join(fused, on=["pair_id", "annotator"], how="left").join(known, on="pair_id", how="left")
    prefers = pl.col("label").is_in(_SIDES)
    rows = per.group_by("annotator").agg(
        pl.len().alias("answers"),
        pl.col("seconds").median(),
        chose.filter(prefers).mean().alias("reliability"),
        (_first().filter(prefers).mean() - 0.5).alias("bias_first"),
        (~prefers).mean().alias("ties"),
        pl.col("known_label").count().alias("controls"),
        _matches("known_label").sum().alias("controls_right"),
    )
    skips = answers.filter(pl.col("cancelled")).group_by("annotator").agg(pl.len().alias("skips"))
    return (
        rows.join(skips, on="annotator", how="full", coalesce=True)
        .with_columns(pl.col("answers", "skips", "controls", "controls_right").fill_null(0))
        .sort("annotator")
    )


def pair_agreement(answers: pl.DataFrame) -> pl.DataFrame:
    """How often each two annotators agree: `first, second, shared, agreeing`, `first` < `second`."""
    answered = _answered(answers).select("pair_id", "annotator", "label")
    both = answered.join(answered, on="pair_id", suffix="_2").filter(pl.col("annotator") < pl.col("annotator_2"))
    return (
        both.group_by(pl.col("annotator").alias("first"), pl.col("annotator_2").alias("second"))
        .agg(pl.len().alias("shared"), (pl.col("label") == pl.col("label_2")).sum().alias("agreeing"))
        .sort("first", "second")
    )


def drift(answers: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Whether an annotator changes over time: first against second half of their answers.

    Returns:
        `annotator, answers, reliability_early, reliability_late, seconds_early, seconds_late`.
    """
    answered = _answered(answers).join(
        _without_self(_answered(answers), verdicts), on=["pair_id", "annotator"], how="left"
    )
    answered = answered.sort("annotator", "updated_at", "pair_id").with_columns(
        (pl.int_range(pl.len()).over("annotator") * 2 >= pl.len().over("annotator")).alias("late"),
        pl.when(pl.col("label") == "a")
        .then("p_a")
        .when(pl.col("label") == "b")
        .then(1 - pl.col("p_a"))
        .alias("agrees"),
    )
    halves = [("early", ~pl.col("late")), ("late", pl.col("late"))]
    return (
        answered.group_by("annotator")
        .agg(
            pl.len().alias("answers"),
            *(pl.col("agrees").filter(half).mean().alias(f"reliability_{name}") for name, half in halves),
            *(pl.col("seconds").filter(half).median().alias(f"seconds_{name}") for name, half in halves),
        )
        .sort("annotator")
    )


def suspicions(answers: pl.DataFrame, known: pl.DataFrame, n_chars: pl.DataFrame) -> pl.DataFrame:
    """Evidence of careless answers: one row per annotator and kind, for a person to judge.

    Kinds: `one_side` (the response shown first is chosen too often or too rarely), `controls` (known answers
    are met no better than by a coin), `chance_agreement` (agreement with the others no better than expected
    of unrelated answers), `too_fast` (too many answers in less time than a fast reader needs, `READ_PER_SECOND`).

    Args:
        n_chars: `pair_id, n_chars`: characters on the page.

    Returns:
        `annotator, kind, cases, of, p_value, evidence` (a sentence), sorted.
    """
    answered = _answered(answers).join(known, on="pair_id", how="left").join(n_chars, on="pair_id", how="left")
    rows = [*_one_side(answered), *_controls(answered), *_chance(answered), *_too_fast(answered)]
    schema = {
        "annotator": pl.String, "kind": pl.String, "cases": pl.Int64, "of": pl.Int64,
        "p_value": pl.Float64, "evidence": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sort("annotator", "kind")


def judge_agreement(votes: pl.DataFrame, slices: pl.DataFrame, by: str) -> pl.DataFrame:
    """How often each judge agrees with what most people answered (`human_label`), per slice.

    Args:
        votes: `pair_id, voter, kind, label`.
        slices: `pair_id` and the column `by`.

    Returns:
        `voter, <by>, pairs, agreement` over pairs where most people prefer one side; a judge's tie does not agree.
    """
    humans = human_label(votes).filter(pl.col("label").is_in(_SIDES)).rename({"label": "human"})
    return (
        votes.filter(pl.col("kind") == "judge", pl.col("label").is_in(PREFERENCES))
        .select("pair_id", "voter", "label")
        .join(humans, on="pair_id")
        .join(slices.select("pair_id", by), on="pair_id")
        .group_by("voter", by)
        .agg(pl.len().alias("pairs"), (pl.col("label") == pl.col("human")).mean().alias("agreement"))
        .sort("voter", by)
    )


def _answered(answers: pl.DataFrame) -> pl.DataFrame:
    return answers.filter(~pl.col("cancelled"))


def _first() -> pl.Expr:
    """Whether the response shown first was preferred."""
    return (pl.col("label") == "a") == (pl.col("shown") == "ab")


def _matches(column: str) -> pl.Expr:
    answer = pl.when(pl.col("label") == "both_bad").then(pl.lit("tie")).otherwise("label")
    return (answer == pl.col(column)).fill_null(False)


def _without_self(answered: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, annotator, p_a`: P(a better) by everybody else."""
    log_odds = (
        verdicts.select("pair_id", "prior", "contributions")
        .explode("contributions", keep_nulls=True, empty_as_null=True)
        .with_columns(
            pl.col("contributions").struct.field("voter").alias("voter"),
            pl.col("contributions").struct.field("log_odds").fill_null(0.0).alias("log_odds"),
        )
    )
    total = log_odds.group_by("pair_id").agg((pl.col("prior").first() + pl.col("log_odds").sum()).alias("total"))
    own = log_odds.group_by("pair_id", "voter").agg(pl.col("log_odds").sum().alias("own"))
    both = answered.select("pair_id", "annotator", ("human:" + pl.col("annotator")).alias("voter"))
    both = both.join(total, on="pair_id", how="inner").join(own, on=["pair_id", "voter"], how="left")
    margin = pl.col("total") - pl.col("own").fill_null(0.0)
    return both.select(
        "pair_id", "annotator", margin.map_batches(scipy.special.expit, return_dtype=pl.Float64).alias("p_a")
    )


_Row = tuple[str, str, int, int, float, str]


def _one_side(answered: pl.DataFrame) -> list[_Row]:
    counts = (
        answered.filter(pl.col("label").is_in(_SIDES), pl.col("shown").is_not_null())
        .group_by("annotator")
        .agg(_first().sum().alias("k"), pl.len().alias("n"))
    )
    return [
        (who, "one_side", k, n, p, f"chose the response shown first in {k} of {n} preferences")
        for who, k, n in counts.iter_rows()
        if (p := _p_value(k, n, 0.5)) < ALPHA
    ]


def _p_value(k: int, n: int, p: float, alternative: str = "two-sided") -> float:
    """Of the exact binomial test of `k` successes in `n` trials of probability `p`."""
    from scipy.stats import binomtest  # imported here: a second of every command otherwise

    return float(binomtest(k, n, p, alternative=alternative).pvalue)


def _controls(answered: pl.DataFrame) -> list[_Row]:
    """Suspected where the answers would be quite likely of a coin, and unlikely of somebody right 4 times in 5."""
    counts = (
        answered.filter(pl.col("known_label").is_in(_SIDES))
        .group_by("annotator")
        .agg(_matches("known_label").sum().alias("k"), pl.len().alias("n"))
    )
    return [
        (who, "controls", k, n, p, f"met {k} of {n} known answers")
        for who, k, n in counts.iter_rows()
        if (p := _p_value(k, n, 0.8, alternative="less")) < ALPHA
    ]


def _chance(answered: pl.DataFrame) -> list[_Row]:
    """Agreement with the other annotators of the same pairs, against what unrelated answers would give."""
    labels = answered.group_by("pair_id", "label").agg(pl.len().alias("same"))
    totals = answered.group_by("pair_id").agg(pl.len().alias("all"))
    both = answered.join(labels, on=["pair_id", "label"]).join(totals, on="pair_id").filter(pl.col("all") > 1)
    share = dict(answered.group_by("label").agg(pl.len() / answered.height).iter_rows())
    rows: list[_Row] = []
    for (who,), mine in both.group_by("annotator", maintain_order=True):
        others, same = int((mine["all"] - 1).sum()), int((mine["same"] - 1).sum())
        expected = sum(share[label] * n / mine.height for label, n in mine["label"].value_counts().iter_rows())
        p_value = _p_value(same, others, min(1.0, expected + _ABOVE_CHANCE), alternative="less")
        if others and p_value < ALPHA:
            text = f"agreed with others in {same} of {others} comparisons, where unrelated answers give {expected:.0%}"
            rows.append((str(who), "chance_agreement", same, others, float(p_value), text))
    return rows


def _too_fast(answered: pl.DataFrame) -> list[_Row]:
    fast = pl.col("seconds") < pl.col("n_chars") / READ_PER_SECOND
    counts = answered.filter(pl.col("seconds").is_not_null(), pl.col("n_chars").is_not_null())
    counts = counts.group_by("annotator").agg(fast.sum().alias("k"), pl.len().alias("n"))
    return [
        (who, "too_fast", k, n, p, f"answered {k} of {n} pairs faster than three times the usual reading speed")
        for who, k, n in counts.iter_rows()
        if (p := _p_value(k, n, 0.2, alternative="greater")) < ALPHA
    ]

"""What is known of each judge from its votes: biases, failures, agreement with humans. Pure functions of frames.

Frames: `votes` is the votes table (kind `judge`); `lengths` holds pair_id, length_a, length_b (characters);
`humans` holds pair_id and label (a, b or tie), one row a pair (`human_label`); a null counts as no label.
"""

from __future__ import annotations

import polars as pl

from transforms.stats.human_labels import human_label

VALID = ("a", "b", "tie")
STRICT = ("a", "b")
_Z95 = 1.959963984540054


def judge_statistics(votes: pl.DataFrame, lengths: pl.DataFrame, humans: pl.DataFrame) -> pl.DataFrame:
    """One row per voter, sorted by name.

    Columns (shares in [0, 1]; null where nothing counts towards them):
        voter, n_votes, n_pairs;
        parse_rate: of the votes whose replies came (neither refused nor error), those that could be read;
        tie_rate of valid votes; invalid_rate, refused_rate, error_rate of all votes;
        flip_rate: of pairs seen in both orders with valid votes, those with different labels;
        first_rate: of strict votes on pairs seen in both orders, those for the response shown first (0.5: no bias);
        longer_rate: of strict votes on pairs of different lengths, those for the longer response, and
        human_longer_rate: the same of human labels on the pairs this voter gave such votes on;
        agreement, agreement_low, agreement_high: of strict votes on pairs with a strict human label, those that
        equal it, with Wilson's 95% interval; n_compared: how many;
        brier: mean squared error of p_a against those labels;
        tokens_in, tokens_out: mean per vote.
    """
    parts = [
        _counts(votes),
        _orders(votes),
        longer_rates(votes, lengths, humans),
        agreement_with_humans(votes, humans),
    ]
    out = parts[0]
    for part in parts[1:]:
        out = out.join(part, on="voter", how="left")
    return out.sort("voter")


def judge_table(votes: pl.DataFrame, lengths: pl.DataFrame, most: int | None = None) -> pl.DataFrame:
    """`judge_statistics` and `context_worth` of the judges, by name, against what most people said (`human_label`).

    Args:
        votes: rows of `votes`, of people too.
        most: how many judges at most: those with the most votes.
    """
    judges = votes.filter(pl.col("kind") == "judge")
    if most is not None:
        busy = judges["voter"].value_counts().sort("count", "voter", descending=[True, False]).head(most)
        judges = judges.join(busy, on="voter", how="semi")
    humans = human_label(votes)
    table = judge_statistics(judges, lengths, humans)
    return table.join(context_worth(judges, humans), on="voter", how="left", maintain_order="left")


def response_lengths(pairs: pl.DataFrame) -> pl.DataFrame:
    """pair_id, length_a, length_b: characters of the responses' texts, all turns together."""
    return pairs.select(
        "pair_id",
        **{
            f"length_{side}": pl.col(f"response_{side}")
            .list.eval(pl.element().struct.field("content").str.len_chars())
            .list.sum()
            for side in "ab"
        },
    )


def context_worth(votes: pl.DataFrame, humans: pl.DataFrame) -> pl.DataFrame:
    """Per voter of the context judge: agreement with humans under the context and without it.

    Columns: voter, n_context (labels compared), with_context, without_context (shares in [0, 1]), changed (share of
    labels the context changed).
    """
    aspects = votes.filter(pl.col("aspects").is_not_null()).with_columns(
        without=pl.col("aspects").str.json_path_match("$.label_without")
    )
    both = aspects.filter(pl.col("label").is_in(STRICT) & pl.col("without").is_in(STRICT))
    joined = both.join(_strict(humans), on="pair_id")
    return (
        joined.group_by("voter")
        .agg(
            n_context=pl.len(),
            with_context=(pl.col("label") == pl.col("human")).mean(),
            without_context=(pl.col("without") == pl.col("human")).mean(),
            changed=(pl.col("label") != pl.col("without")).mean(),
        )
        .sort("voter")
    )


def wilson(successes: pl.Expr, n: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Bounds of Wilson's 95% interval for a share (Wilson 1927)."""
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * (p * (1 - p) / n + z2 / (4 * n * n)).sqrt() / (1 + z2 / n)
    return centre - half, centre + half


def _counts(votes: pl.DataFrame) -> pl.DataFrame:
    label = pl.col("label")
    return votes.group_by("voter").agg(
        n_votes=pl.len(),
        n_pairs=pl.col("pair_id").n_unique(),
        parse_rate=label.is_in(VALID).filter(label.is_in((*VALID, "invalid"))).mean(),
        tie_rate=(label == "tie").filter(label.is_in(VALID)).mean(),
        invalid_rate=(label == "invalid").mean(),
        refused_rate=(label == "refused").mean(),
        error_rate=(label == "error").mean(),
        tokens_in=pl.col("tokens_in").mean(),
        tokens_out=pl.col("tokens_out").mean(),
    )


def _orders(votes: pl.DataFrame) -> pl.DataFrame:
    """Flip rate and share of the first place, over pairs that one voter saw in both orders."""
    valid = votes.filter(pl.col("label").is_in(VALID) & pl.col("order").is_in(("ab", "ba")))
    keys = ["voter", "pair_id", "sample"]
    ab = valid.filter(pl.col("order") == "ab").select(*keys, ab="label")
    ba = valid.filter(pl.col("order") == "ba").select(*keys, ba="label")
    both = ab.join(ba, on=keys)
    first = (pl.col("ab") == "a").cast(pl.Int64) + (pl.col("ba") == "b").cast(pl.Int64)
    strict = pl.col("ab").is_in(STRICT).cast(pl.Int64) + pl.col("ba").is_in(STRICT).cast(pl.Int64)
    return both.group_by("voter").agg(
        flip_rate=(pl.col("ab") != pl.col("ba")).mean(), first_rate=_share(first.sum(), strict.sum())
    )


def longer_rates(votes: pl.DataFrame, lengths: pl.DataFrame, humans: pl.DataFrame) -> pl.DataFrame:
    """Per voter `longer_rate` and `human_longer_rate`: see `judge_statistics`."""
    longer = pl.when(pl.col("length_a") > pl.col("length_b")).then(pl.lit("a")).otherwise(pl.lit("b"))
    differing = lengths.filter(pl.col("length_a") != pl.col("length_b")).select("pair_id", longer=longer)
    cast = votes.filter(pl.col("label").is_in(STRICT)).join(differing, on="pair_id")
    with_humans = cast.join(_strict(humans), on="pair_id", how="left")
    return with_humans.group_by("voter").agg(
        longer_rate=(pl.col("label") == pl.col("longer")).mean(),
        human_longer_rate=(pl.col("human") == pl.col("longer")).mean(),
    )


def agreement_with_humans(votes: pl.DataFrame, humans: pl.DataFrame) -> pl.DataFrame:
    """Per voter `n_compared`, `agreement` with its interval, and `brier`: see `judge_statistics`."""
    cast = votes.filter(pl.col("label").is_in(STRICT)).join(_strict(humans), on="pair_id")
    low, high = wilson(pl.col("hits"), pl.col("n_compared"))
    target = (pl.col("human") == "a").cast(pl.Float64)
    return (
        cast.group_by("voter")
        .agg(
            n_compared=pl.len(),
            hits=(pl.col("label") == pl.col("human")).sum(),
            brier=((pl.col("p_a") - target) ** 2).mean(),
        )
        .with_columns(agreement=pl.col("hits") / pl.col("n_compared"), agreement_low=low, agreement_high=high)
        .drop("hits")
    )


def _strict(humans: pl.DataFrame) -> pl.DataFrame:
    return humans.filter(pl.col("label").is_in(STRICT)).select("pair_id", human="label")


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole)

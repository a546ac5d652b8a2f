"""What routers know of a pair's texts: how alike its responses are, and which prompts are nearly the same."""

from __future__ import annotations

import polars as pl

from transforms.publish.prompt_keys import canonical_texts, similarity_keys

_SHINGLE = 3  # words
_ROWS = 2


def response_features(pairs: pl.DataFrame) -> pl.DataFrame:
    """Two of the features by which Hybrid Preferences (Miranda et al., 2024) predicts what a human is worth.

    Args:
        pairs: `pair_id`, and columns of messages `response_a`, `response_b`.

    Returns:
        `pair_id`, `similarity`: in [0, 1], F-measure of the distinct words the responses share (ROUGE-1, Lin 2004, on
        sets; 1 if neither has a word), and `length_difference`: |log of the ratio of their lengths|, characters
        plus one, at least 0.
    """
    words = {
        side: _text(f"response_{side}").str.to_lowercase().str.extract_all(r"[\p{L}\p{M}\p{N}]+").list.unique()
        for side in "ab"
    }
    n = {side: pl.col(f"_{side}").list.len().cast(pl.Float64) for side in "ab"}
    shared = pl.col("_a").list.set_intersection("_b").list.len().cast(pl.Float64)
    length = {side: _text(f"response_{side}").str.len_chars().cast(pl.Float64) + 1 for side in "ab"}
    return pairs.select(
        "pair_id",
        words["a"].alias("_a"),
        words["b"].alias("_b"),
        (length["a"] / length["b"]).log().abs().alias("length_difference"),
    ).select(
        "pair_id",
        pl.when(n["a"] + n["b"] > 0).then(2 * shared / (n["a"] + n["b"])).otherwise(1.0).alias("similarity"),
        "length_difference",
    )


def prompt_families(pairs: pl.DataFrame) -> pl.Series:
    """The family of each row's prompt: prompts nearly alike are likely to share one.

    One MinHash key of two minima over word shingles, so two prompts of Jaccard similarity J share a family with
    probability J^2, in linear time; equal prompts always do. It is one key, not a band of many: a discount by
    rank within one key is the same however the prompts lie in buckets, since the j-th best of a family can only get
    better when more of it is seen.

    Args:
        pairs: `prompt_id`, and a column of messages `prompt`.
    """
    prompts = pairs.unique("prompt_id", maintain_order=True)
    if prompts.is_empty():
        return pl.Series("family", [], dtype=pl.String)
    keys = similarity_keys(canonical_texts(prompts["prompt"]), 1, _ROWS, _SHINGLE)[:, 1]
    family = dict(zip(prompts["prompt_id"], (f"{key:016x}" for key in keys.tolist()), strict=True))
    return pl.Series("family", [family[prompt_id] for prompt_id in pairs["prompt_id"]], dtype=pl.String)


def _text(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().struct.field("content").fill_null("")).list.join("\n")

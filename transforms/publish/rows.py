"""Verdicts to published rows; what is not published becomes a reject with its reason."""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from schemas.errors import DataError
from schemas.ids import hash_fields
from schemas.tables import DatasetRows, Pairs, Rejects, conform, polars_schema

STAGE = "materialise"
PUBLISHED = ("keep", "flip", "soften")


class RowsConfig(BaseModel):
    """How a verdict becomes a row.

    `weight`: `soften` gives rows of action `soften` the weight 2 p_chosen - 1 and all others 1;
    `expected` gives every row 2 p_chosen - 1, the expected sign of its label; `equal` gives 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Literal["soften", "expected", "equal"] = "soften"


def dataset_rows(
    pairs: pl.DataFrame, verdicts: pl.DataFrame, splits: pl.DataFrame, config: RowsConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Publish or reject every pair of a bucket.

    Args:
        pairs: `pairs` rows.
        verdicts: `verdicts` rows of the same bucket, at most one a pair.
        splits: columns prompt_id, split, reason (`transforms.publish.splits.assign_parts`); a prompt
            whose split is null has no row and its pairs are rejected with that reason.
        config: the weights' rule.

    Returns:
        `DatasetRows` sorted by (prompt_id, pair_id), and `Rejects` sorted by reject_id. Together they
        hold every pair exactly once.

    Raises:
        DataError: a verdict's pair is absent, or a prompt has no entry in `splits`.
    """
    orphans = verdicts.join(pairs, on="pair_id", how="anti")
    if orphans.height:
        raise DataError(
            f"{orphans.height} verdicts have no pair (first: {orphans['pair_id'][0]}); run the fuse stage again"
        )
    joined = (
        pairs.join(verdicts.drop("prompt_id").with_columns(judged=pl.lit(True)), on="pair_id", how="left")
        .join(
            splits.select("prompt_id", "split", split_reason="reason", assigned=pl.lit(True)),
            on="prompt_id",
            how="left",
        )
        .with_columns(rejection=_rejection())
    )
    if joined["assigned"].null_count():
        prompt = joined.filter(pl.col("assigned").is_null())["prompt_id"][0]
        raise DataError(f"prompt {prompt} has no split; compute the splits from all pairs of the workspace")
    kept = joined.filter(pl.col("rejection").is_null())
    left = joined.filter(pl.col("rejection").is_not_null())
    return _rows(kept, config).sort("prompt_id", "pair_id"), _rejects(left)


def _rejection() -> pl.Expr:
    """Why a pair is not published; null where it is."""
    reasons = pl.col("reasons").list
    return (
        pl.when(pl.col("judged").is_null())
        .then(pl.lit("no_verdict"))
        .when(~pl.col("action").is_in(PUBLISHED))
        .then(pl.when(reasons.len() > 0).then(reasons.first()).otherwise(pl.col("action")))
        .when(pl.col("label") == "tie")
        .then(pl.lit("tie"))
        .when(pl.col("split").is_null())
        .then(pl.col("split_reason"))
    )


def _rows(kept: pl.DataFrame, config: RowsConfig) -> pl.DataFrame:
    a = pl.col("label") == "a"
    p_chosen = pl.when(a).then(pl.col("p_a")).otherwise(1 - pl.col("p_a"))
    soft = (2 * p_chosen - 1).clip(0.0, 1.0)
    weight = {
        "equal": pl.lit(1.0),
        "expected": soft,
        "soften": pl.when(pl.col("action") == "soften").then(soft).otherwise(1.0),
    }[config.weight]
    rows = kept.with_columns(
        chosen=pl.when(a).then("response_a").otherwise("response_b"),
        rejected=pl.when(a).then("response_b").otherwise("response_a"),
        chosen_is=pl.col("label"),
        model_chosen=pl.when(a).then("model_a").otherwise("model_b"),
        model_rejected=pl.when(a).then("model_b").otherwise("model_a"),
        margin=pl.col("margin").abs(),
        p_chosen=p_chosen,
        weight=weight,
        decided_by=_decided_by(a),
    )
    return conform(rows, DatasetRows)


def _decided_by(a: pl.Expr) -> pl.Expr:
    """The voter who moved the log-odds most towards the label; `prior` where nobody did."""
    towards = (
        pl.when(a)
        .then(pl.col("contributions").list.eval(pl.element().struct.field("log_odds")))
        .otherwise(pl.col("contributions").list.eval(-pl.element().struct.field("log_odds")))
    )
    best = pl.col("contributions").list.get(towards.list.arg_max(), null_on_oob=True).struct.field("voter")
    return pl.when(towards.list.max() > 0).then(best).otherwise(pl.lit("prior"))


def _rejects(left: pl.DataFrame) -> pl.DataFrame:
    """As a frame, not by `schemas.rows.reject_row`: they may be most of a version's pairs, and payloads stay whole."""
    payload = pl.struct([c for c in polars_schema(Pairs) if c != "pair_id"]).struct.json_encode()
    rejects = left.select(
        reject_id=pl.col("pair_id"),
        stage=pl.lit(STAGE),
        reason=pl.col("rejection"),
        record_id=pl.col("pair_id"),
        detail=pl.when(pl.col("judged").is_null())
        .then(pl.lit("no verdict: nobody has voted on this pair"))
        .otherwise(
            pl.format(
                "action {}, label {}, P(a) = {}; {}",
                pl.col("action"),
                pl.col("label"),
                pl.col("p_a").round(4),
                pl.col("reasons").list.join(", "),
            )
        ),
        payload=payload,  # whole: a version holds the texts of these pairs nowhere else
    )
    ids = [hash_fields(STAGE, reason, pair) for reason, pair in rejects.select("reason", "record_id").iter_rows()]
    return conform(rejects.with_columns(pl.Series("reject_id", ids, dtype=pl.String)), Rejects).sort("reject_id")

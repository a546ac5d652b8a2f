"""Columns of `pairs` that say something about them: control labels and slices."""

from __future__ import annotations

from typing import Any

import polars as pl


def known_labels(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, known` (+1 a, -1 b, 0 tie) of the pairs with a `known_label`."""
    if "known_label" not in pairs.columns:
        return pl.DataFrame(schema={"pair_id": pl.String, "known": pl.Float64})
    label = pl.col("known_label")
    sign = (label == "a").cast(pl.Float64) - (label == "b").cast(pl.Float64)
    return pairs.filter(label.is_not_null()).select("pair_id", sign.alias("known"))


def slice_weight(slices: dict[str, list[dict[str, Any]]], cells: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`cells` with `_slice`, the sum of what the pair's slices add to its group's weight.

    Args:
        slices: {family: [{level, group, weight}]}; a family is a column of `pairs`.
        cells: `pair_id, group`.
        pairs: `pair_id` and the families.
    """
    out = cells.with_columns(pl.lit(0.0).alias("_slice"))
    for family, rows in slices.items():
        if not rows or family not in pairs.columns:
            continue
        table = pl.DataFrame(rows, schema={"level": pl.String, "group": pl.String, "weight": pl.Float64})
        levels = pairs.select("pair_id", pl.col(family).cast(pl.String).alias("level")).unique("pair_id")
        out = (
            out.join(levels, on="pair_id", how="left", maintain_order="left")
            .join(table, on=["level", "group"], how="left", maintain_order="left")
            .with_columns((pl.col("_slice") + pl.col("weight").fill_null(0.0)).alias("_slice"))
            .drop("level", "weight")
        )
    return out

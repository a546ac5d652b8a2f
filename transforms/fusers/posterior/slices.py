"""What the slices of a pair (task kind, language, origin) add to the weight of a group of voters."""

from __future__ import annotations

from typing import Any

import polars as pl


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

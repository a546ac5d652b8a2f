"""Controls: pairs whose source label is known to be right."""

from __future__ import annotations

import polars as pl

CONTROL = "control"  # their tag, and the voter under which a known answer appears among the contributions


def known_label() -> pl.Expr:
    """`known_label`: the answer of a control, null for every other pair; of a frame with `tags` and `source_label`."""
    is_control = pl.col("tags").list.contains(CONTROL).fill_null(False)
    return pl.when(is_control).then("source_label").alias("known_label")

"""Ask about every pair: for small data and for gold sets."""

from __future__ import annotations

import polars as pl

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.routers.base import Router


@register("all")
class AllRouter(Router):
    """Every pair is worth the same; under a budget the order is the audit's, that is, random."""

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """1 for every candidate."""
        return pl.Series("value", [1.0] * candidates.height, dtype=pl.Float64)

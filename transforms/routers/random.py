"""Ask about pairs at random: the baseline every other router must beat."""

from __future__ import annotations

import polars as pl

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.routers.base import Router
from transforms.routers.queue.fill import uniform


@register("random")
class RandomRouter(Router):
    """A seeded draw per pair, uniform in [0, 1)."""

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """The draw; the same pair draws the same number in every run of one seed."""
        return pl.Series("value", uniform(candidates["pair_id"], self.seed, "random"), dtype=pl.Float64)

"""Ask where the fused model is least certain."""

from __future__ import annotations

import polars as pl

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.routers.base import Router
from transforms.stats.value_of_answers import loss, outcomes


@register("uncertainty")
class UncertaintyRouter(Router):
    """Entropy of the posterior in nats, in [0, log 3] (uncertainty sampling, Lewis and Gale, 1994)."""

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """Entropy of P(a), P(b), P(tie)."""
        return pl.Series("value", loss(outcomes(candidates), "log"))

"""What a router must have."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import polars as pl

from schemas.tables import Row
from transforms.plugins.base import Plugin


class Router(Plugin):
    """Verdicts to a queue for people under a budget; a router with nothing to learn inherits `fit`.

    A router that wants `similarity` and `length_difference` of the responses among the candidates' columns
    (`transforms.routers.queue.features.response_features`) sets `reads_responses`.
    """

    kind: ClassVar[str] = "routers"
    reads_responses: ClassVar[bool] = False

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the values."""
        return {**super().identity, "seed": self.seed}

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Learn from the candidates that people already answered (columns as in `values`); {} if there is nothing."""
        return {}

    @abstractmethod
    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """Expected gain of one label per candidate (verdict columns plus origin, kind, language, n_chars)."""

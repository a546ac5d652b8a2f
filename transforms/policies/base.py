"""What a policy must have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import polars as pl

from schemas.tables import Row
from transforms.plugins.base import Plugin


class Policy(Plugin):
    """Posterior to action."""

    kind: ClassVar[str] = "policies"

    @abstractmethod
    def fit(self, verdicts: pl.DataFrame) -> Row:
        """Whatever the policy needs of the whole (percentiles), and `predicted`, the share of each action."""

    @abstractmethod
    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """The same rows with `action` and `reasons` filled."""

    def because(self, model: Row, verdict: Mapping[str, Any]) -> str | None:
        """The comparison with a threshold that decided a verdict, in words; None if the policy cannot say."""
        return None

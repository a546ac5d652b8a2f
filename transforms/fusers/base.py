"""What a fuser must have."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import polars as pl

from schemas.tables import Row
from transforms.plugins.base import Plugin


class Fuser(Plugin):
    """Votes to posterior. The model is plain JSON, so that `explain` and the report can read it.

    What a fuser computes depends on its version and settings alone: it draws no random numbers.
    """

    kind: ClassVar[str] = "fusers"

    @abstractmethod
    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """Learn how far each voter is to be believed.

        Args:
            votes: the `votes` table, or a sample of it by prompt.
            pairs: `pair_id, prompt_id, source_label, kind, language, origin`, the responses' lengths in characters
                (`length_a`, `length_b`) and `known_label`, the answer of a control.
        """

    @abstractmethod
    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Posteriors: the `verdicts` columns without noise, action and reasons; one row per row of `pairs`."""

"""Personalised splits: who was seen in training and who was not."""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from schemas.ids import unit_interval
from transforms.exporters._messages import messages
from transforms.exporters.base import PreferenceConfig, PreferenceExporter
from transforms.plugins.registry import register


class PerUserConfig(PreferenceConfig):
    """`unseen_users`: share of users, drawn by a seeded coin, none of whose rows is trained on."""

    unseen_users: float = Field(default=0.1, ge=0.0, le=1.0)


@register("per-user")
class PerUser(PreferenceExporter):
    """Rows with a `user_id`, for models that learn a user's taste.

    Seen users: `train`, `validation`, `test_seen_users` by the split of the prompt. Unseen users:
    `context_unseen_users` (their rows on training prompts, to adapt with) and `test_unseen_users` (on test prompts);
    their validation prompts go to `validation_unseen_users`. So no test prompt is ever trained on.
    """

    Config: ClassVar[type[PreferenceConfig]] = PerUserConfig
    config: PerUserConfig

    def eligible(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that have a user."""
        return rows.filter(pl.col("user_id").is_not_null())

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns user_id, prompt, chosen, rejected, p_chosen."""
        unseen = pl.col("user_id").map_batches(self._unseen, return_dtype=pl.Boolean, is_elementwise=True)
        names = {"train": "context_unseen_users", "validation": "validation_unseen_users", "test": "test_unseen_users"}
        split = (
            pl.when(unseen)
            .then(pl.col("split").replace_strict(names, return_dtype=pl.String))
            .otherwise(pl.col("split").replace({"test": "test_seen_users"}))
        )
        return rows.select(
            "user_id",
            prompt.alias("prompt"),
            messages("chosen", parts),
            messages("rejected", parts),
            "p_chosen",
            split.alias("split"),
        )

    def _unseen(self, users: pl.Series) -> pl.Series:
        share, seed = self.config.unseen_users, str(self.seed)
        coins = {u: unit_interval(seed, "user", u) < share for u in users.unique().drop_nulls().to_list()}
        return pl.Series([coins.get(u, False) for u in users.to_list()], dtype=pl.Boolean)

"""TRL's dataset formats: https://huggingface.co/docs/trl/dataset_formats."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl

from transforms.exporters._messages import messages
from transforms.exporters.base import PreferenceConfig, PreferenceExporter
from transforms.plugins.registry import register


@register("trl-dpo")
class TrlDpo(PreferenceExporter):
    """Explicit-prompt conversational preferences for `DPOTrainer`: `chosen` and `rejected` are the assistant's turn."""

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns prompt, chosen, rejected, and context if the rule says so."""
        columns = [prompt.alias("prompt"), messages("chosen", parts), messages("rejected", parts)]
        if self.config.context == "column":
            columns.append(pl.col("context"))
        return rows.select(*columns, "split")


class TrlRewardConfig(PreferenceConfig):
    """`margin` adds the column `margin`, the log-odds of the preference, which `RewardTrainer` subtracts.

    By default it is written if there are rows whose label is in doubt (action `soften`): the loss then asks for less
    distance between the two responses of such a pair.
    """

    soft_labels: Literal["filter", "ignore", "duplicate", "margin"] = "margin"
    margin: bool | None = None


@register("trl-reward")
class TrlReward(PreferenceExporter):
    """Implicit-prompt preferences for `RewardTrainer`: `chosen` and `rejected` are whole conversations."""

    Config: ClassVar[type[PreferenceConfig]] = TrlRewardConfig
    config: TrlRewardConfig

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns chosen, rejected and, if asked for, margin."""
        columns = [pl.concat_list(prompt, messages(column, parts)).alias(column) for column in ("chosen", "rejected")]
        if self._has_margin(rows):
            columns.append(pl.col("margin"))
        if self.config.context == "column":
            columns.append(pl.col("context"))
        return rows.select(*columns, "split")

    def _has_margin(self, rows: pl.LazyFrame) -> bool:
        if self.config.margin is not None or self.config.soft_labels != "margin":
            return bool(self.config.margin)
        doubtful: bool = rows.select((pl.col("action") == "soften").any()).collect().item()
        return doubtful


@register("trl-kto")
class TrlKto(PreferenceExporter):
    """Unpaired preferences for `KTOTrainer`: prompt, completion, label.

    A response that takes part in several pairs is written once: desirable if it won more weight than it lost,
    undesirable if it lost more, left out if neither.
    """

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns prompt, completion, label."""
        sides = [
            rows.select(
                "pair_id",
                "prompt_id",
                "split",
                _context="context",
                prompt=prompt,
                completion=messages(column, parts),
                _key=pl.struct(text=column).struct.json_encode(),
                _won=sign * pl.col("weight"),
            )
            for column, sign in (("chosen", 1), ("rejected", -1))
        ]
        return (
            pl.concat(sides)
            .group_by("prompt_id", "_context", "_key")
            .agg(pl.col("prompt", "completion", "split").first(), pl.col("_won").sum())
            .filter(pl.col("_won") != 0)
            .sort("prompt_id", "_context", "_key")
            .select("prompt", "completion", (pl.col("_won") > 0).alias("label"), "split")
        )

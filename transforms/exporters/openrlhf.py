"""OpenRLHF's `RewardDataset`: https://github.com/OpenRLHF/OpenRLHF, `openrlhf/datasets/reward_dataset.py`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl

from transforms.exporters._messages import messages
from transforms.exporters.base import PreferenceConfig, PreferenceExporter
from transforms.plugins.registry import register


class OpenRlhfConfig(PreferenceConfig):
    """`layout`.

    `conversations`: chosen and rejected are whole conversations (`--data.apply_chat_template`, no prompt key).
    `prompt`: the prompt in a column of its own (`--data.prompt_key prompt`), needed if responses have several turns,
    because without a prompt key the trainer takes all but the last message as the prompt.
    """

    layout: Literal["conversations", "prompt"] = "conversations"
    margin: bool = True


@register("openrlhf")
class OpenRlhf(PreferenceExporter):
    """Preferences for OpenRLHF's reward model and DPO trainers."""

    Config: ClassVar[type[PreferenceConfig]] = OpenRlhfConfig
    config: OpenRlhfConfig

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns (prompt,) chosen, rejected (, margin)."""
        sides = {c: messages(c, parts) for c in ("chosen", "rejected")}
        if self.config.layout == "prompt":
            columns = [prompt.alias("prompt"), *sides.values()]
        else:
            columns = [pl.concat_list(prompt, side).alias(c) for c, side in sides.items()]
        if self.config.margin:
            columns.append(pl.col("margin"))
        if self.config.context == "column":
            columns.append(pl.col("context"))
        return rows.select(*columns, "split")

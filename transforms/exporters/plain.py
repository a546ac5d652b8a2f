"""The rows as they are: every column, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from transforms.exporters.base import FileConfig, made_by, write_splits
from transforms.plugins.kinds import PluginConfig
from transforms.plugins.registry import register


class JsonlConfig(FileConfig):
    """One JSON object a line."""

    file_format: Literal["parquet", "jsonl"] = "jsonl"


class _Plain:
    Config: ClassVar[type[PluginConfig]] = FileConfig
    plugin_name: ClassVar[str]

    def __init__(self, name: str, config: FileConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed

    @property
    def identity(self) -> Any:
        """Everything that can change the output."""
        return [self.plugin_name, self.config.model_dump(mode="json")]

    def export(self, rows: pl.LazyFrame, out: Path) -> dict[str, int]:
        """Write every column of every row; returns rows written per split."""
        return write_splits(rows, out, self.config, [made_by(self)], keep_split=True)

    def notes(self, rows: pl.LazyFrame) -> list[str]:
        """Nothing: every row is there, with its p_chosen and weight."""
        return []


@register("exporters", "jsonl")
class Jsonl(_Plain):
    """`<split>-00000.jsonl`, messages with role, content, name, tool_calls (JSON text) and media."""

    Config: ClassVar[type[PluginConfig]] = JsonlConfig


@register("exporters", "datasets")
class Datasets(_Plain):
    """A folder that `datasets.load_dataset(folder)` reads: Parquet files and a README with the splits."""

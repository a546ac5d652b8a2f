"""The rows as they are: every column, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from transforms.exporters.base import Exporter, FileConfig, write_splits
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register


class JsonlConfig(FileConfig):
    """One JSON object per line."""

    file_format: Literal["parquet", "jsonl"] = "jsonl"


class _Plain(Exporter):
    Config: ClassVar[type[PluginConfig]] = FileConfig
    config: FileConfig

    def record(self) -> list[Any]:
        """The exporter and its options; the seed changes nothing."""
        return [self.plugin_name, self.config.model_dump(mode="json"), *self._whose()]

    def export(self, rows: pl.LazyFrame, out: Path) -> dict[str, int]:
        """Write every column of every row; returns rows written per split."""
        return write_splits(rows, out, self.config, [self.made_by], keep_split=True)


@register("jsonl")
class Jsonl(_Plain):
    """`<split>-00000.jsonl`, messages with role, content, name, tool_calls (JSON text) and media."""

    Config: ClassVar[type[PluginConfig]] = JsonlConfig


@register("datasets")
class Datasets(_Plain):
    """A folder that `datasets.load_dataset(folder)` reads: Parquet files and a README with the splits."""

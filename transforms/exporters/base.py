"""What an exporter must have, and what ours share: soft labels, files, the README that `load_dataset` reads."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from schemas.errors import DataError
from schemas.ids import canonical_json, unit_interval
from transforms.exporters._messages import ContextRule, inspected, refuse_media, with_context
from transforms.exporters._readme import readme
from transforms.plugins.base import Plugin, PluginConfig
from transforms.storage.files import writing

SPLIT_ORDER = ("train", "validation", "test")
ROWS_PER_FILE = 500_000
_ROUNDING = 1e-9  # of a p_chosen that was computed as 1 - p
_DOUBTFUL = {
    "filter": (
        "left out: their label is in doubt (action soften). soft_labels: ignore exports them as if they were certain, "
        "duplicate weighs them by copies"
    ),
    "ignore": "in doubt (action soften) exported as if they were certain",
    "margin": "in doubt (action soften) exported with their margin, the log-odds of the preference",
}


class FileConfig(PluginConfig):
    """`file_format` of what is written; a split is cut into files of at most `rows_per_file` rows."""

    file_format: Literal["parquet", "jsonl"] = "parquet"
    rows_per_file: int = Field(default=ROWS_PER_FILE, ge=1)


class PreferenceConfig(FileConfig):
    """How contexts and soft labels reach a trainer that reads hard preferences.

    `context`: where a row's context goes (`system`, `user`, `column`, `drop`), through `context_template`.
    `soft_labels`: what becomes of rows of action `soften`, whose label is in doubt. `filter` leaves them out: a trainer
    would take them for certain. `ignore` exports them like any other row. `duplicate` writes every training row
    `copies` times, of which a share 1 - p_chosen (rounded by a seeded coin) has chosen and rejected exchanged: the
    expected DPO loss is then the soft-label cross-entropy. `margin` leaves it to the column `margin`, in formats that
    have it.
    `min_p_chosen`: rows whose chosen side is less likely are left out, whatever their action.
    """

    context: ContextRule = "system"
    context_template: str = "{context}"
    soft_labels: Literal["filter", "ignore", "duplicate", "margin"] = "filter"
    min_p_chosen: float = Field(default=0.5, ge=0.5, le=1.0)
    copies: int = Field(default=4, ge=1, le=64)

    @field_validator("context_template")
    @classmethod
    def _one_context(cls, template: str) -> str:
        if template.count("{context}") != 1:
            raise ValueError("context_template must hold {context} exactly once")
        return template

    @model_validator(mode="after")
    def _has_margins(self) -> Self:
        if self.soft_labels == "margin" and "margin" not in type(self).model_fields:
            raise ValueError("soft_labels: margin is for formats with the option margin (trl-reward, openrlhf)")
        return self

    @property
    def treatment(self) -> str:
        """`soft_labels`; without the column `margin`, doubtful rows that were to have their margin are left out."""
        return "filter" if self.soft_labels == "margin" and getattr(self, "margin", None) is False else self.soft_labels


class Exporter(Plugin):
    """A dataset version to the files a trainer reads."""

    kind: ClassVar[str] = "exporters"

    @property
    def made_by(self) -> str:
        """The line of an export's README that says with which exporter and options it was made."""
        return f"Exporter, options, seed: {canonical_json(self.record()).decode()}"

    def record(self) -> list[Any]:
        """The exporter, all its options and what else can change the output, for a reader of the export."""
        return [self.plugin_name, self.config.model_dump(mode="json"), self.seed, *self._whose()]

    def _whose(self) -> list[Any]:
        """Version and package, if they are not the first and prefine's own."""
        version = [{"version": self.version}] if self.version > 1 else []
        package = [] if self.distribution is None else [list(self.distribution)]
        return [*version, *package]

    @abstractmethod
    def export(self, rows: pl.LazyFrame, out: Path) -> dict[str, int]:
        """Write the files and README.md with the line `made_by`, by which an export that is there already is known.

        Args:
            rows: the version's rows.
            out: the folder to write into; empty, or not there yet.

        Returns:
            Rows written per split.
        """

    def notes(self, rows: pl.LazyFrame) -> list[str]:
        """What a person must know of the export of these rows: how many it leaves out, and why."""
        return []


class PreferenceExporter(Exporter):
    """An exporter of one file set per split. Subclasses give the columns."""

    Config: ClassVar[type[PluginConfig]] = PreferenceConfig
    config: PreferenceConfig
    version: ClassVar[int] = 2
    holds_media: ClassVar[bool] = False

    def export(self, rows: pl.LazyFrame, out: Path) -> dict[str, int]:
        """Write `<split>-00000.parquet` (or .jsonl) and README.md under `out`; returns rows written per split.

        Raises:
            DataError: the rows cannot be expressed in this format without losing or inventing something.
        """
        parts = inspected(rows, self.plugin_name)
        if not self.holds_media:
            refuse_media(parts, self.plugin_name)
        prompt = with_context(self.config.context, self.config.context_template, parts)
        table = self.table(soft_rows(self.eligible(rows), self.config, self.seed), prompt, parts)
        return write_splits(table, out, self.config, about=[self.made_by, *self.notes(rows)])

    def eligible(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that this format is for; by default all."""
        return rows

    def notes(self, rows: pl.LazyFrame) -> list[str]:
        """How many of the eligible rows are left out and how many go with a doubtful label, and how to change that."""
        config = self.config
        doubtful, unlikely = pl.col("action") == "soften", ~_is_likely(config)
        training = pl.col("split") == "train"
        counted = {
            "rows": pl.len(),
            "unlikely": unlikely.sum(),
            "doubtful": (doubtful & ~unlikely).sum(),
            "training": (training & ~unlikely).sum(),
            "tested": (~training & doubtful & ~unlikely).sum(),
        }
        n = self.eligible(rows).select(**counted).collect().row(0, named=True)
        lines = []
        if n["unlikely"]:
            least = f"p_chosen below min_p_chosen {config.min_p_chosen:.3g}"
            lines.append(f"{n['unlikely']:,} of {n['rows']:,} rows left out: {least}")
        if config.treatment == "duplicate" and n["tested"]:
            lines.append(f"{n['tested']:,} of {n['rows']:,} rows outside of training are {_DOUBTFUL['ignore']}")
        if config.treatment == "duplicate" and n["training"]:
            lines.append(
                f"{n['training']:,} training rows written {config.copies} times each, with chosen and rejected "
                "exchanged in a share 1 - p_chosen of the copies"
            )
        if config.treatment != "duplicate" and n["doubtful"]:
            lines.append(f"{n['doubtful']:,} of {n['rows']:,} rows {_DOUBTFUL[config.treatment]}")
        return lines

    @abstractmethod
    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """The rows in this format; must keep the column `split`."""


def soft_rows(rows: pl.LazyFrame, config: PreferenceConfig, seed: int) -> pl.LazyFrame:
    """The rows as `soft_labels` and `min_p_chosen` say."""
    rows = rows.filter(_is_likely(config))
    if config.treatment == "filter":
        return rows.filter(pl.col("action") != "soften")
    if config.treatment != "duplicate":
        return rows
    copies = config.copies

    def flips(frame: pl.Series) -> pl.Series:
        counts = [
            math.floor((1 - row["p_chosen"]) * copies + unit_interval(str(seed), "resample", row["pair_id"]))
            for row in frame
        ]
        return pl.Series(counts, dtype=pl.Int64)

    n_flipped = pl.struct("pair_id", "p_chosen").map_batches(flips, return_dtype=pl.Int64, is_elementwise=True)
    train = pl.col("split") == "train"
    copied = rows.with_columns(
        _flipped=n_flipped, _copy=pl.int_ranges(0, pl.when(train).then(copies).otherwise(1))
    ).explode("_copy")
    exchange = train & (pl.col("_copy") < pl.col("_flipped"))
    pairs = (("chosen", "rejected"), ("model_chosen", "model_rejected"))
    exchanged = {a: pl.when(exchange).then(b).otherwise(a) for x, y in pairs for a, b in ((x, y), (y, x))}
    return copied.with_columns(**exchanged).drop("_copy", "_flipped")


def _is_likely(config: PreferenceConfig) -> pl.Expr:
    return pl.col("p_chosen") >= config.min_p_chosen - _ROUNDING


def write_splits(
    table: pl.LazyFrame, out: Path, config: FileConfig, about: Sequence[str], keep_split: bool = False
) -> dict[str, int]:
    """Write each split's rows in order; splits without rows get no file.

    Args:
        about: what the README says of the rows, a line each: how they were made, what is left out.

    Raises:
        DataError: there is no row, which no trainer can load, or `out` holds something already, which would be mixed
            with the export.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty; export into a new folder, so that nothing old is mixed in")
    counts = dict(table.group_by("split").len().collect().iter_rows())
    if not counts:
        raise DataError(". ".join(["no row is left to export", *about[1:]]))
    order = [s for s in SPLIT_ORDER if s in counts] + sorted(set(counts) - set(SPLIT_ORDER))
    suffix = config.file_format
    for split in order:
        part = table.filter(pl.col("split") == split)
        if not keep_split:
            part = part.drop("split")
        target = pl.PartitionBy(
            out,
            max_rows_per_file=config.rows_per_file,
            approximate_bytes_per_file=None,
            file_path_provider=partial(_file_name, split, suffix),
        )
        with writing(out):
            if suffix == "parquet":
                part.sink_parquet(target, mkdir=True)
            else:
                part.sink_ndjson(target, mkdir=True)
    schema = table.collect_schema()
    if not keep_split:
        schema.pop("split")
    with writing(out / "README.md"):
        (out / "README.md").write_text(readme(schema, order, suffix, about))
    return {split: counts[split] for split in order}


def _file_name(split: str, suffix: str, file: Any) -> str:
    return f"{split}-{file.index_in_partition:05d}.{suffix}"

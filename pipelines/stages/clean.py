"""Stage clean: the hygiene of the recipe, over ingested and generated pairs alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipelines.runtime.hygiene_stage import HygieneStage
from pipelines.runtime.stage_class import Reads
from schemas.messages import text_of
from transforms.hygiene.clean import Outcome, examine_pairs
from transforms.hygiene.duplicates import pair_keys
from transforms.hygiene.masking import votes_on_masked

_RAW = ("ingest", "generate")


@dataclass(frozen=True)
class Clean(HygieneStage):
    """The pairs that stay; of those that are alike the one with the smallest id, an ingested one before a made one."""

    name: ClassVar[str] = "clean"
    version: ClassVar[int] = 3
    reads: ClassVar[Reads] = (("pairs", _RAW), ("votes", _RAW))
    table: ClassVar[str] = "pairs"
    raw: ClassVar[tuple[str, ...]] = _RAW
    id_column: ClassVar[str] = "pair_id"

    @property
    def gains(self) -> bool:
        """Generators may make a pair that was given, or one pair from two rows."""
        return bool(self.recipe.generate.generators)

    @property
    def origin_columns(self) -> tuple[str, ...]:
        """Which prompt a pair descends from."""
        return ("group_id",)

    def origins(self, rows: pl.DataFrame) -> pl.Series:
        """The pair's group."""
        return rows["group_id"].fill_null("")

    def order(self) -> pl.Expr:
        """By id, and of equal ids the ingested one first."""
        return pl.format("{} {}", "pair_id", "record")

    def examine(self, rows: pl.DataFrame) -> list[Outcome]:
        """What becomes of each pair by itself."""
        return examine_pairs(rows, self.config, self.embed if self.needs_vectors else None)

    def keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Keys of prompt and responses."""
        return pair_keys(rows)

    def meaning(self, rows: pl.DataFrame) -> tuple[list[str], list[str]]:
        """Both responses together, whichever stands first; compared under one prompt and context."""
        texts, groups = [], []
        for row in rows.iter_rows(named=True):
            texts.append("\n".join(sorted(text_of(row[side]) for side in ("response_a", "response_b"))))
            groups.append(f"{row['prompt_id']} {row['context'] or ''}")
        return texts, groups

    def beside_kept(self, bucket: int, rows: pl.DataFrame, kept: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """The votes on pairs that masking gave new ids."""
        votes = votes_on_masked(self.workspace.read("votes", bucket, _RAW), kept)
        return {"votes": votes}

"""Stage screen: the recipe's hygiene over prompts, before anything is paid for making pairs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipelines.runtime.hygiene_stage import HygieneStage
from pipelines.runtime.stage_class import Reads
from pipelines.stages.evolve import Evolve, evolved_from
from schemas.ids import hash_json
from schemas.messages import text_of
from transforms.hygiene.clean import Outcome, examine_prompts
from transforms.hygiene.duplicates import prompt_keys

_RAW = ("ingest", "evolve")


@dataclass(frozen=True)
class Screen(HygieneStage):
    """The prompts that generators get: no near-duplicates, none from a benchmark, nothing forbidden.

    Of prompts that are alike a given one stays before an evolved one, and then the one with the smallest id.
    """

    name: ClassVar[str] = "screen"
    version: ClassVar[int] = 3
    reads: ClassVar[Reads] = (("prompts", _RAW),)
    table: ClassVar[str] = "prompts"
    raw: ClassVar[tuple[str, ...]] = _RAW
    id_column: ClassVar[str] = "prompt_id"

    @property
    def gains(self) -> bool:
        """Evolved prompts lie in their seeds' buckets, so equal ones may lie in two."""
        return bool(Evolve(self.workspace, self.recipe, self.base_dir).uses)

    @property
    def origin_columns(self) -> tuple[str, ...]:
        """Where an evolved prompt names its seed."""
        return ("meta",)

    def origins(self, rows: pl.DataFrame) -> pl.Series:
        """The prompt's seed, if it was evolved."""
        return pl.Series([evolved_from(meta) for meta in rows["meta"]], dtype=pl.String)

    def order(self) -> pl.Expr:
        """Given prompts first, then by id."""
        return pl.format("{} {} {}", pl.col("record").str.slice(0, 1), "prompt_id", "record")

    def examine(self, rows: pl.DataFrame) -> list[Outcome]:
        """What becomes of each prompt by itself."""
        return examine_prompts(rows, self.config, self.embed if self.needs_vectors else None)

    def keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Keys of the prompt's text and its documents."""
        return prompt_keys(rows)

    def meaning(self, rows: pl.DataFrame) -> tuple[list[str], list[str]]:
        """The prompt's text; compared among prompts with the same documents."""
        texts = [text_of(prompt) for prompt in rows["prompt"].to_list()]
        return texts, ["" if d is None else hash_json(d) for d in rows["documents"].to_list()]

"""Stage evolve: prompts become further prompts, before any hygiene of prompts and before any pair is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from pipelines.runtime.generator_stage import GeneratingStage, Made, conserved, duplicate
from pipelines.runtime.stage_class import Reads
from schemas.tables import Prompts, Row, rows_frame
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Evolve(GeneratingStage):
    """New prompts in the bucket of the prompt they descend from."""

    name: ClassVar[str] = "evolve"
    makes: ClassVar[str] = "prompts"
    reads: ClassVar[Reads] = (("prompts", ("ingest",)),)
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {"prompts": ("ingest",)}

    def output(self, made: Made) -> Output:
        """The new prompts; of those with one text the one with the smallest origin stays, as over all buckets."""
        found = [(name, row) for name, one in made for row in one.prompts]
        kept: dict[str, Row] = {}
        again: list[Row] = []
        for name, row in sorted(found, key=lambda item: (item[1]["prompt_id"], evolved_from(item[1]["meta"]))):
            if row["prompt_id"] in kept:
                again.append(duplicate(self.name, name, row, "prompt_id"))
            else:
                kept[row["prompt_id"]] = row
        return conserved("prompts", made, rows_frame(list(kept.values()), Prompts), again)


def evolved_from(meta: str | None) -> str:
    """Id of the prompt that a prompt was evolved from; "" where it was not."""
    made: Any = orjson.loads(meta or "{}").get("evolution") or {}
    return str(made.get("evolved_from", ""))

"""Stage evolve: prompts become further prompts, before any hygiene of prompts and before any pair is made."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any

import orjson

from pipelines.runtime.generating import (
    Generators,
    Yields,
    check_answered,
    conserved,
    duplicate,
    per_row,
    setup_generators,
    unusable_notes,
)
from pipelines.runtime.stage import Run, Stage
from schemas.tables import Prompts, Row, rows_frame
from transforms.storage.workspace import Output


def _setup(run: Run) -> Generators:
    return setup_generators(run, "prompts")


def new_prompts(made: Yields) -> Output:
    """The new prompts, in the bucket of the prompt they descend from.

    Of those with one text the one with the smallest origin stays, as over all buckets.
    """
    prompts = [(name, row) for name, one in made for row in one.prompts]
    kept: dict[str, Row] = {}
    again: list[Row] = []
    for name, row in sorted(prompts, key=lambda item: (item[1]["prompt_id"], evolved_from(item[1]["meta"]))):
        if row["prompt_id"] in kept:
            again.append(duplicate("evolve", name, row, "prompt_id"))
        else:
            kept[row["prompt_id"]] = row
    return conserved("prompts", made, rows_frame(list(kept.values()), Prompts), again)


def evolved_from(meta: str | None) -> str:
    """Id of the prompt that a prompt was evolved from; "" where it was not."""
    made: Any = orjson.loads(meta or "{}").get("evolution") or {}
    return str(made.get("evolved_from", ""))


EVOLVE = Stage(
    name="evolve",
    version=2,
    reads={"prompts": ("ingest",)},
    setup=_setup,
    work=per_row(new_prompts),
    is_idle=attrgetter("is_idle"),
    check=partial(check_answered, "evolve"),
    notes=partial(unusable_notes, "evolve"),
)

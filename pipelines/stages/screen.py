"""Stage screen: the recipe's hygiene over prompts, before anything is paid for making pairs of them."""

from __future__ import annotations

from operator import attrgetter

import polars as pl

from pipelines.runtime.generating import uses_making
from pipelines.runtime.hygiene import FIND_DUPLICATES, Hygiene, RowKind, cleaned, setup_hygiene
from pipelines.runtime.stage import PerBucket, Run, Stage
from pipelines.stages.evolve import evolved_from
from schemas.ids import hash_json
from schemas.messages import text_of
from transforms.hygiene.clean import examine_prompts
from transforms.hygiene.duplicates import prompt_keys

_STAGES = ("ingest", "evolve")


def _seed(prompts: pl.DataFrame) -> pl.Series:
    """The prompt that each was evolved from."""
    return pl.Series([evolved_from(meta) for meta in prompts["meta"]], dtype=pl.String)


def _order() -> pl.Expr:
    """A given prompt stays before an evolved one, and then the one with the smallest id."""
    return pl.format("{} {} {}", pl.col("record").str.slice(0, 1), "prompt_id", "record")


def _meaning(prompts: pl.DataFrame) -> tuple[list[str], list[str]]:
    """The prompt's text; compared among prompts with the same documents."""
    texts = [text_of(prompt) for prompt in prompts["prompt"].to_list()]
    return texts, ["" if d is None else hash_json(d) for d in prompts["documents"].to_list()]


PROMPTS = RowKind("prompts", "prompt_id", _STAGES, ("meta",), _seed, _order, examine_prompts, prompt_keys, _meaning)


def _setup(run: Run) -> Hygiene:
    # Evolved prompts lie in their seeds' buckets, so equal ones may lie in two.
    return setup_hygiene(run, PROMPTS, gains=bool(uses_making(run.recipe, "prompts")))


SCREEN = Stage(
    name="screen",
    version=3,
    reads={"prompts": _STAGES},
    setup=_setup,
    steps=FIND_DUPLICATES,
    work=PerBucket(cleaned),
    is_idle=attrgetter("is_idle"),
    conserves="prompts",
)

"""Stage clean: the hygiene of the recipe, over ingested and generated pairs alike."""

from __future__ import annotations

from operator import attrgetter

import polars as pl

from pipelines.runtime.hygiene import FIND_DUPLICATES, Hygiene, RowKind, cleaned, setup_hygiene
from pipelines.runtime.stage import Artefacts, Inputs, PerBucket, Run, Stage
from schemas.messages import text_of
from transforms.hygiene.clean import examine_pairs
from transforms.hygiene.duplicates import pair_keys
from transforms.hygiene.masking import votes_on_masked
from transforms.storage.workspace import Output

_STAGES = ("ingest", "generate")


def _group(pairs: pl.DataFrame) -> pl.Series:
    """Which prompt a pair descends from."""
    return pairs["group_id"].fill_null("")


def _order() -> pl.Expr:
    """The pair with the smallest id stays, and of equal ids the ingested one."""
    return pl.format("{} {}", "pair_id", "record")


def _meaning(pairs: pl.DataFrame) -> tuple[list[str], list[str]]:
    """Both responses together, whichever stands first; compared under one prompt and context."""
    texts, groups = [], []
    for row in pairs.iter_rows(named=True):
        texts.append("\n".join(sorted(text_of(row[side]) for side in ("response_a", "response_b"))))
        groups.append(f"{row['prompt_id']} {row['context'] or ''}")
    return texts, groups


PAIRS = RowKind("pairs", "pair_id", _STAGES, ("group_id",), _group, _order, examine_pairs, pair_keys, _meaning)


def _setup(run: Run) -> Hygiene:
    # Generators may make a pair that was given, or one pair from two rows.
    return setup_hygiene(run, PAIRS, gains=bool(run.recipe.generate.generators))


def clean_pairs(hygiene: Hygiene, inputs: Inputs, artefacts: Artefacts) -> Output:
    """The pairs of a bucket that stay, and the votes on those to which masking gave new ids."""
    output = cleaned(hygiene, inputs, artefacts)
    if "pairs" in output.tables:
        output.tables["votes"] = votes_on_masked(inputs.read("votes"), output.tables["pairs"])
    return output


CLEAN = Stage(
    name="clean",
    version=3,
    reads={"pairs": _STAGES, "votes": _STAGES},
    setup=_setup,
    steps=FIND_DUPLICATES,
    work=PerBucket(clean_pairs),
    is_idle=attrgetter("is_idle"),
    conserves="pairs",
)

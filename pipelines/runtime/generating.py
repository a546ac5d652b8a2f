"""What the two stages that run generators share: a unit of work per row, in the bucket of that row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import polars as pl

from pipelines.runtime.asking import engines_of
from pipelines.runtime.stage import Artefacts, Inputs, PerUnit, Run, Unit
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.ids import canonical_json
from schemas.recipe import PluginUse, Recipe
from schemas.rows import reject_row, told_apart
from schemas.tables import Rejects, Row, rows_frame
from transforms.engines.base import Engine
from transforms.generators.base import EMPTY, UNUSABLE, Generator, Yield
from transforms.llm.request import Ask
from transforms.plugins.build import build
from transforms.plugins.registry import find
from transforms.storage.workspace import Output

Yields = list[tuple[str, Yield]]  # what every generator made, by its name and in order


class Generators(NamedTuple):
    """The recipe's generators that make pairs, or those that make prompts, in order."""

    generators: tuple[Generator, ...]
    engines: Mapping[str, Engine]

    @property
    def identity(self) -> Any:
        """The generators."""
        return [[generator.name, generator.identity] for generator in self.generators]

    @property
    def is_idle(self) -> bool:
        """Whether the recipe has no such generator."""
        return not self.generators

    def consuming(self, table: str) -> list[Generator]:
        """The generators that start from rows of `table`."""
        return [generator for generator in self.generators if generator.consumes == table]


def uses_making(recipe: Recipe, makes: str) -> list[PluginUse]:
    """The recipe's generators that make `makes` ("pairs" or "prompts")."""
    return [use for use in recipe.generate.generators if find(Generator, use.plugin).makes == makes]


def setup_generators(run: Run, makes: str) -> Generators:
    """Build the recipe's generators that make `makes`, and the engines they ask."""
    uses = uses_making(run.recipe, makes)
    engines = engines_of(run, Generator, uses)
    generators = tuple(build(Generator, use, run.recipe.seed, run.folder) for use in uses)
    for generator in generators:
        generator.bind({name: engine.answers_as for name, engine in engines.items()})
    return Generators(generators, engines)


def per_row(output: Callable[[Yields], Output]) -> PerUnit[Generators]:
    """The work of a stage that runs generators: a unit per row of every table that some generator consumes.

    Args:
        output: the bucket's output of all that was made.
    """
    return PerUnit(attrgetter("generate"), attrgetter("engines"), _count, _units, partial(_output, output))


def _count(setup: Generators, inputs: Inputs) -> int:
    return sum(inputs.read(table, []).height for table in inputs.reads if setup.consuming(table))


def _units(setup: Generators, inputs: Inputs, _: Artefacts, ask: Ask) -> list[Unit]:
    return [
        partial(_yields, generators, row, ask)
        for table in inputs.reads
        if (generators := setup.consuming(table))
        for row in inputs.read(table).to_dicts()
    ]


def _output(output: Callable[[Yields], Output], _setup: Generators, _inputs: Inputs, results: list[Yields]) -> Output:
    return output([made for unit in results for made in unit])


async def _yields(generators: list[Generator], row: Row, ask: Ask) -> Yields:
    """What the generators make of a row, in order; a generator also gets the prompts that earlier ones made."""
    rows: list[Row] = [row]
    yields: Yields = []
    for generator in generators:
        made = await asyncio.gather(*(generator.pairs(r, ask) for r in rows))
        yields += [(generator.name, one) for one in made]
        rows += [prompt for one in made for prompt in one.prompts]
    return yields


def check_answered(stage: str, run: Run, _setup: Generators, summary: Summary) -> None:
    """End the run where engines answered and no reply held anything to use, unless the recipe lets all fail.

    Raises:
        EngineError: with how many replies, and an example of what was wrong.
    """
    asked, answered = (_total(summary, kind) for kind in ("asked", "answered"))
    if not asked or answered or run.recipe.generate.max_failed_share >= 1.0:
        return
    frames = [run.workspace.read("rejects", bucket, (stage,), ("reason", "detail")) for bucket in run.workspace.buckets]
    rejects = pl.concat(frames).filter(pl.col("reason").str.starts_with(UNUSABLE))
    examples: list[str] = rejects["detail"].drop_nulls().sort().head(1).to_list()
    example = "".join(f" (for example: {detail})" for detail in examples)
    raise EngineError(
        f"stage {stage}: none of {asked:,} replies can be used{example}: without a response there is nothing to "
        "publish. Change the generators' model or max_tokens, or allow it with max_failed_share: 1"
    )


def unusable_notes(stage: str, _run: Run, _setup: Generators, _artefacts: Artefacts, summary: Summary) -> list[str]:
    """A sentence on the replies that held nothing to use, if there are any."""
    asked = _total(summary, "asked")
    empty = summary.rejects.get(EMPTY, 0)
    if not empty:
        return []
    return [f"stage {stage}: {empty:,} of {asked:,} replies hold no answer; `prefine rejects` says why"]


def _total(summary: Summary, kind: str) -> int:
    return int(sum(n for name, n in summary.counts.items() if name.endswith(f".{kind}")))


def conserved(name: str, made: Yields, table: pl.DataFrame, duplicates: list[Row]) -> Output:
    """The output of the rows that stay (`table`, of kind `name`) and of all that was rejected.

    Rows in are the rows that the generators yielded, counted before any of them was compared with another.
    """
    rejects = told_apart([*(reject for _, one in made for reject in one.rejects), *duplicates])
    yielded = sum(len(getattr(one, name)) + len(one.rejects) for _, one in made)
    return Output(
        {name: table, "rejects": rows_frame(rejects, Rejects)},
        rows_in=yielded,
        rows_out=table.height,
        counts={name: table.height, **_counts(made)},
    )


def _counts(made: Yields) -> dict[str, int]:
    """Sums of the yields' counts, as `generator.count`."""
    counts: dict[str, int] = {}
    for name, one in made:
        for key, n in one.counts.items():
            counts[f"{name}.{key}"] = counts.get(f"{name}.{key}", 0) + n
    return counts


def duplicate(stage: str, generator: str, row: Row, key: str) -> Row:
    """The reject of a row that was made already."""
    detail = "another generator, or the same one from another row, made it already; the first is kept"
    payload = canonical_json(row).decode()
    return reject_row(f"{stage}/{generator}", "duplicate", row[key], detail, payload, (stage, generator, row[key]))

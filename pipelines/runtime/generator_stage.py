"""What the two stages that run generators share: a unit of work per row, in the bucket of that row."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import polars as pl

from pipelines.runtime.llm_stage import AskingStage, Unit
from schemas.ids import canonical_json, hash_fields
from schemas.recipe import AskingSection, PluginUse
from schemas.tables import PAYLOAD_LIMIT, Rejects, Row, rows_frame
from transforms.generators.base import Generator, Yield
from transforms.llm.request import Ask
from transforms.plugins.base import Plugin
from transforms.plugins.build import build
from transforms.plugins.registry import find
from transforms.storage.workspace import Output

Made = list[tuple[str, Yield]]


@dataclass(frozen=True)
class GeneratingStage(AskingStage):
    """The recipe's generators that make `makes` ("pairs" or "prompts"), over the rows of `tables`."""

    kind: ClassVar[type[Plugin]] = Generator
    version: ClassVar[int] = 2
    makes: ClassVar[str]
    tables: ClassVar[Mapping[str, tuple[str, ...]]]  # table that generators consume -> the stages that give it

    @property
    def uses(self) -> list[PluginUse]:
        """The recipe's generators of this stage."""
        return [use for use in self.recipe.generate.generators if find(Generator, use.plugin).makes == self.makes]

    @property
    def is_idle(self) -> bool:
        """Whether the recipe has no such generator."""
        return not self.uses

    @property
    def section(self) -> AskingSection:
        """The recipe's section `generate`."""
        return self.recipe.generate

    @cached_property
    def generators(self) -> list[Generator]:
        """The generators in order."""
        generators = [build(Generator, use, self.recipe.seed, self.base_dir) for use in self.uses]
        for generator in generators:
            generator.bind(self.models)
        return generators

    @property
    def identity(self) -> Any:
        """The generators."""
        return [[generator.name, generator.identity] for generator in self.generators]

    def unit_ids(self, bucket: int) -> int:
        """Rows that some generator consumes."""
        return sum(
            self.workspace.read(table, bucket, stages, []).height
            for table, stages in self.tables.items()
            if any(generator.consumes == table for generator in self.generators)
        )

    def work(self, bucket: int, ask: Ask) -> tuple[list[Unit], Callable[[list[Any]], Output]]:
        """A unit per row of every table that some generator consumes."""
        units: list[Unit] = []
        for table, stages in self.tables.items():
            generators = [generator for generator in self.generators if generator.consumes == table]
            if generators:
                rows = self.workspace.read(table, bucket, stages).to_dicts()
                units += [partial(_yields, generators, row, ask) for row in rows]
        return units, lambda results: self.output([made for unit in results for made in unit])

    @abstractmethod
    def output(self, made: Made) -> Output:
        """The bucket's output from what every generator yielded, by its name and in order."""


async def _yields(generators: list[Generator], row: Row, ask: Ask) -> Made:
    """What the generators make of a row, in order; a generator also gets the prompts that earlier ones made."""
    rows: list[Row] = [row]
    found: Made = []
    for generator in generators:
        yields = await asyncio.gather(*(generator.pairs(r, ask) for r in rows))
        found += [(generator.name, made) for made in yields]
        rows += [prompt for made in yields for prompt in made.prompts]
    return found


def conserved(name: str, made: Made, table: pl.DataFrame, duplicates: list[Row]) -> Output:
    """The output of the rows that stay (`table`, of kind `name`) and of all that was rejected.

    Rows in are the rows that the generators yielded, counted before any of them was compared with another.
    """
    rejects: list[Row] = [*(reject for _, one in made for reject in one.rejects), *duplicates]
    seen: dict[str, int] = {}
    for reject in rejects:
        again = seen[reject["reject_id"]] = seen.get(reject["reject_id"], -1) + 1
        if again:  # two rows may fail alike, to the letter: both are counted
            reject["reject_id"] = hash_fields(reject["reject_id"], str(again))
    yielded = sum(len(getattr(one, name)) + len(one.rejects) for _, one in made)
    return Output(
        {name: table, "rejects": rows_frame(rejects, Rejects)},
        rows_in=yielded,
        rows_out=table.height,
        counts={name: table.height, **counted(made)},
    )


def counted(made: Made) -> dict[str, int]:
    """Sums of the yields' counts, as `generator.count`."""
    counts: dict[str, int] = {}
    for name, one in made:
        for key, n in one.counts.items():
            counts[f"{name}.{key}"] = counts.get(f"{name}.{key}", 0) + n
    return counts


def duplicate(stage: str, generator: str, row: Row, key: str) -> Row:
    """The reject of a row that was made already."""
    return {
        "reject_id": hash_fields(stage, generator, row[key]),
        "stage": f"{stage}/{generator}",
        "reason": "duplicate",
        "record_id": row[key],
        "detail": "another generator, or the same one from another row, made it already; the first is kept",
        "payload": canonical_json(row).decode()[:PAYLOAD_LIMIT],
    }

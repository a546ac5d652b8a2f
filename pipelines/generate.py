"""Stage generate: prompts become pairs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from pipelines.asking import AskingStage, Unit
from pipelines.stage import Reads
from schemas.ids import canonical_json, hash_fields
from schemas.recipe import CallBudget, PluginUse
from schemas.tables import PAYLOAD_LIMIT, Pairs, Prompts, Rejects, Votes, rows_frame
from transforms.build import build_all
from transforms.plugins import Ask, Row, Yield
from transforms.sources.votes import vote_id
from transforms.storage.workspace import Output

_INPUT = ("ingest",)


@dataclass(frozen=True)
class Generate(AskingStage):
    """Every generator's pairs from every prompt (or pair); what one row yields stays in that row's bucket."""

    name: ClassVar[str] = "generate"
    kind: ClassVar[str] = "generators"
    reads: ClassVar[Reads] = (("prompts", _INPUT), ("pairs", _INPUT))

    @property
    def uses(self) -> list[PluginUse]:
        """The recipe's generators."""
        return self.recipe.generate.generators

    @property
    def budget(self) -> CallBudget:
        """The generators' budget."""
        return self.recipe.generate.budget

    @cached_property
    def generators(self) -> list[Any]:
        """The generators in order."""
        return build_all("generators", self.uses, self.recipe.seed, self.models)

    @property
    def identity(self) -> Any:
        """The generators."""
        return [[generator.name, generator.identity] for generator in self.generators]

    def unit_ids(self, bucket: int) -> int:
        """Rows that some generator consumes."""
        return sum(
            self.workspace.read(table, bucket, _INPUT, []).height
            for table in ("prompts", "pairs")
            if any(generator.consumes == table for generator in self.generators)
        )

    def work(self, bucket: int, ask: Ask) -> tuple[list[Unit], Callable[[list[Any]], Output]]:
        """A unit per prompt and, for generators that consume pairs, per pair."""
        units: list[Unit] = []
        for table in ("prompts", "pairs"):
            generators = [generator for generator in self.generators if generator.consumes == table]
            if generators:
                rows = self.workspace.read(table, bucket, _INPUT).to_dicts()
                units += [partial(_yields, generators, row, ask) for row in rows]
        return units, _output


async def _yields(generators: list[Any], row: Row, ask: Ask) -> list[tuple[str, Yield]]:
    """What the generators make of a row, in order; a generator also gets the prompts that earlier ones made."""
    rows, found = [row], []
    for generator in generators:
        yields = await asyncio.gather(*(generator.pairs(r, ask) for r in rows))
        found += [(generator.name, made) for made in yields]
        rows += [prompt for made in yields for prompt in made.prompts]
    return found


def _output(results: list[list[tuple[str, Yield]]]) -> Output:
    pairs: dict[str, Row] = {}
    prompts: dict[str, Row] = {}
    rejects: list[Row] = []
    counts: dict[str, int] = {}
    for name, made in (item for unit in results for item in unit):
        rejects += made.rejects
        for key, n in made.counts.items():
            counts[f"{name}.{key}"] = counts.get(f"{name}.{key}", 0) + n
        for table, key, rows in ((pairs, "pair_id", made.pairs), (prompts, "prompt_id", made.prompts)):
            for row in rows:
                if row[key] in table:
                    rejects.append(_duplicate(name, row, key, len(rejects)))
                else:
                    table[row[key]] = row
    frame = rows_frame(rejects, Rejects).unique("reject_id", keep="first", maintain_order=True)
    kept = len(pairs) + len(prompts)
    return Output(
        {
            "pairs": rows_frame(list(pairs.values()), Pairs),
            "prompts": rows_frame(list(prompts.values()), Prompts),
            "votes": rows_frame([_source_vote(pair) for pair in pairs.values() if pair["source_label"]], Votes),
            "rejects": frame,
        },
        rows_in=kept + frame.height,
        rows_out=kept,
        counts={"pairs": len(pairs), "prompts": len(prompts), **counts},
    )


def _source_vote(pair: Row) -> Row:
    """The label a generator gives by construction is one opinion among others: a vote, as a source's label is."""
    voter, label = pair["origin"], pair["source_label"]
    return {
        "vote_id": vote_id("source", pair["pair_id"], voter, "none", label),
        "pair_id": pair["pair_id"],
        "voter": voter,
        "voter_group": voter,
        "kind": "source",
        "order": "none",
        "sample": 0,
        "label": label,
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
    }


def _duplicate(generator: str, row: Row, key: str, number: int) -> Row:
    return {
        "reject_id": hash_fields("generate", generator, row[key], str(number)),
        "stage": f"generate/{generator}",
        "reason": "duplicate",
        "record_id": row[key],
        "detail": "another generator, or the same one from another row, made it already; the first is kept",
        "payload": canonical_json(row).decode()[:PAYLOAD_LIMIT],
    }

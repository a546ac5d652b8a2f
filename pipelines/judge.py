"""Stage judge: LLM judges vote on every pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from pipelines.asking import AskingStage, Unit
from pipelines.stage import PAIR_STAGES, Reads
from schemas.recipe import CallBudget, PluginUse
from schemas.tables import Votes, rows_frame
from transforms.build import build_all
from transforms.plugins import Ask, Row
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Judge(AskingStage):
    """Every judge's votes on every pair; all pairs of a prompt are one unit, so their requests share a prefix."""

    name: ClassVar[str] = "judge"
    kind: ClassVar[str] = "judges"
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES),)

    @property
    def uses(self) -> list[PluginUse]:
        """The recipe's judges."""
        return self.recipe.judge.judges

    @property
    def budget(self) -> CallBudget:
        """The judges' budget."""
        return self.recipe.judge.budget

    @cached_property
    def judges(self) -> list[Any]:
        """The judges in order."""
        return build_all("judges", self.uses, self.recipe.seed, self.models)

    @property
    def identity(self) -> Any:
        """The judges and how the panel stops."""
        return [[judge.name, judge.identity] for judge in self.judges]

    def unit_ids(self, bucket: int) -> int:
        """Prompts with pairs in the bucket."""
        if not self.uses:
            return 0
        return self.workspace.read("pairs", bucket, PAIR_STAGES, ["prompt_id"])["prompt_id"].n_unique()

    def work(self, bucket: int, ask: Ask) -> tuple[list[Unit], Callable[[list[Any]], Output]]:
        """A unit per prompt."""
        pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
        prompts = pairs.partition_by("prompt_id", maintain_order=True) if self.judges else []
        units: list[Unit] = [partial(self._votes, prompt.to_dicts(), ask) for prompt in prompts]
        return units, partial(_output, pairs.height)

    async def _votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        by_judge = await asyncio.gather(*(judge.votes(pairs, ask) for judge in self.judges))
        return [vote for votes in by_judge for vote in votes]


def _output(n_pairs: int, results: list[list[Row]]) -> Output:
    votes = [vote for unit in results for vote in unit]
    invalid = sum(vote["label"] in ("invalid", "refused", "error") for vote in votes)
    return Output(
        {"votes": rows_frame(votes, Votes)},
        rows_in=n_pairs,
        rows_out=n_pairs,
        counts={"votes": len(votes), "not_counted": invalid},
    )

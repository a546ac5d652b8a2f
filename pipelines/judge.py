"""Stage judge: LLM judges vote on every pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.asking import AskingStage, Unit
from pipelines.stage import PAIR_STAGES, Reads, Stage
from schemas.recipe import CallBudget, PluginUse
from schemas.tables import Votes, rows_frame
from transforms.build import build_all
from transforms.judges._panel import PanelModel, fit_panel, panel_votes, untrained_panel, words_of
from transforms.plugins import Ask, Row
from transforms.storage.memo import Memo
from transforms.storage.workspace import Output

MIN_LABELLED = 20  # human labels below which a fitted panel would be noise


@dataclass(frozen=True)
class Judge(AskingStage):
    """Every judge's votes on every pair; all pairs of a prompt are one unit, so their requests share a prefix."""

    panel: PanelModel | None = None

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
        """The judges, how the panel stops, and the people it is fitted on."""
        judges = [[judge.name, judge.identity] for judge in self.judges]
        section = self.recipe.judge.panel
        return [judges, section.model_dump(mode="json"), self._people if section.is_sequential else None]

    @cached_property
    def _people(self) -> list[list[str]]:
        return [self.workspace.parts("votes", bucket, ("ingest",)) for bucket in self.workspace.buckets]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Engines answer; a sequential panel is first asked whole about pairs that people have labelled."""
        with super().ready(pending) as stage:
            assert isinstance(stage, Judge)
            panel = asyncio.run(stage.fitted_panel()) if stage.endpoints else None
            yield replace(stage, panel=panel)

    async def fitted_panel(self) -> PanelModel | None:
        """Order, weights and stopping from the whole panel's words on pairs with human labels; None without either."""
        section = self.recipe.judge.panel
        if not section.is_sequential:
            return None
        labels = self._human_labels(section.fit_pairs)
        names = [judge.name for judge in self.judges]
        if len(labels) < MIN_LABELLED:
            return untrained_panel(names)
        words: list[NDArray[np.float64]] = []
        kept: list[tuple[float, str]] = []
        async with self.calling() as caller:
            for bucket in self.workspace.buckets:
                pairs = self.workspace.read("pairs", bucket, PAIR_STAGES)
                rows = pairs.filter(pl.col("pair_id").is_in(list(labels))).to_dicts()
                with Memo(self.workspace.bucket_dir("generations", bucket)) as memo:
                    ask = caller.asker(memo)
                    votes = await asyncio.gather(*(judge.votes([row], ask) for row in rows for judge in self.judges))
                by_pair = words_of([vote for each in votes for vote in each], names)
                for row in rows:
                    words.append(by_pair[row["pair_id"]])
                    kept.append((labels[row["pair_id"]], row["prompt_id"]))
        targets = np.array([label for label, _ in kept])
        costs = [section.costs.get(name, 1.0) for name in names]
        return fit_panel(np.stack(words), targets, [g for _, g in kept], names, costs, seed=self.recipe.seed)

    def _human_labels(self, limit: int) -> dict[str, float]:
        """1 for a, 0 for b, by the strict majority of people; the pairs with the lowest ids."""
        frames = [
            self.workspace.read("votes", bucket, ("ingest",), ("pair_id", "kind", "label"))
            for bucket in self.workspace.buckets
        ]
        human = pl.concat(frames).filter(pl.col("kind") == "human", pl.col("label").is_in(["a", "b"]))
        share = human.group_by("pair_id").agg((pl.col("label") == "a").mean().alias("a"))
        decided = share.filter(pl.col("a") != 0.5).sort("pair_id").head(limit)
        return {pair_id: float(a > 0.5) for pair_id, a in decided.iter_rows()}

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
        section = self.recipe.judge.panel
        return await panel_votes(self.judges, pairs, ask, self.panel, section.stop_certainty, section.min_change)


def _output(n_pairs: int, results: list[list[Row]]) -> Output:
    votes = [vote for unit in results for vote in unit]
    invalid = sum(vote["label"] in ("invalid", "refused", "error") for vote in votes)
    return Output(
        {"votes": rows_frame(votes, Votes)},
        rows_in=n_pairs,
        rows_out=n_pairs,
        counts={"votes": len(votes), "not_counted": invalid},
    )

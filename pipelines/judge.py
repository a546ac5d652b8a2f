"""Stage judge: LLM judges vote on every pair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.asking import AskingStage, Unit, usage_of, window
from pipelines.stage import PAIR_STAGES, Reads, Stage
from schemas.ids import canonical_json
from schemas.recipe import CallBudget, PluginUse
from schemas.tables import Votes, rows_frame
from transforms.build import build_all
from transforms.engines.window import Caller, Ledger, Work
from transforms.judges._panel import PanelModel, fit_panel, panel_votes, untrained_panel, words_of
from transforms.plugins import Ask, Row
from transforms.storage.memo import Memo
from transforms.storage.workspace import Output

FIT_USAGE = "fit-usage.json"  # what the panel's last fit asked, as checkpoints keep usage
JUDGES = "judges.json"  # the judges behind the latest checkpoints: template's hash and model
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
    def limits(self) -> CallBudget:
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

    def refresh(self) -> None:
        """Keep what the judges' votes rest on, for the manifest."""
        known = {
            judge.name: {"template_hash": judge.template.hash, "models": dict(sorted(judge.models.items()))}
            for judge in self.judges
            if hasattr(judge, "template")
        }
        data = canonical_json(known)
        if self.workspace.read_artefact(self.name, JUDGES) != data:
            self.workspace.write_artefact(self.name, JUDGES, data)

    @cached_property
    def _people(self) -> list[list[str]]:
        return [self.workspace.parts("votes", bucket, ("ingest",)) for bucket in self.workspace.buckets]

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Engines answer; a sequential panel is first asked whole about pairs that people have labelled."""
        with super().ready(pending) as stage:
            assert isinstance(stage, Judge)
            if not stage.endpoints or not self.recipe.judge.panel.is_sequential:
                yield stage
                return
            started, ledger = time.monotonic(), Ledger()
            try:
                panel = asyncio.run(stage.fitted_panel(ledger))
            finally:
                self.workspace.write_artefact(self.name, FIT_USAGE, canonical_json(usage_of(ledger)))
            left = stage.budget.less(ledger.total(), time.monotonic() - started)
            yield replace(stage, panel=panel, left=left)

    async def fitted_panel(self, ledger: Ledger) -> PanelModel:
        """Order, weights and stopping from the whole panel's words on pairs with human labels.

        Args:
            ledger: what was asked for it is put down here.
        """
        section = self.recipe.judge.panel
        labels = self._human_labels(section.fit_pairs)
        names = [judge.name for judge in self.judges]
        if len(labels) < MIN_LABELLED:
            return untrained_panel(names)
        said: dict[str, NDArray[np.float64]] = {}
        prompt_of: dict[str, str] = {}

        def work(bucket: int, caller: Caller) -> Work[list[Row]]:
            rows = self.workspace.read("pairs", bucket, PAIR_STAGES).filter(pl.col("pair_id").is_in(list(labels)))
            prompt_of.update(rows.select("pair_id", "prompt_id").iter_rows())
            memo = Memo(self.workspace.bucket_dir("generations", bucket)).load()
            ask = caller.asker(memo)

            def finish(results: list[list[Row]]) -> None:
                memo.close()
                said.update(words_of([vote for votes in results for vote in votes], names))

            return Work([partial(panel_votes, self.judges, [row], ask) for row in rows.to_dicts()], finish)

        async with self.calling(1) as caller:
            caller.ledger = ledger
            await window((work(bucket, caller) for bucket in self.workspace.buckets), caller)
        if len(said) < MIN_LABELLED:
            return untrained_panel(names)
        pairs = sorted(said)
        targets = np.array([labels[pair] for pair in pairs])
        groups = [prompt_of[pair] for pair in pairs]
        costs = [section.costs.get(name, 1.0) for name in names]
        return fit_panel(np.stack([said[pair] for pair in pairs]), targets, groups, names, costs, seed=self.recipe.seed)

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

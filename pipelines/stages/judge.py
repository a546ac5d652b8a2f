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

from pipelines.runtime.failures import check_failures
from pipelines.runtime.llm_stage import AskingStage, Unit, usage_of, window
from pipelines.runtime.stage import PAIR_STAGES
from pipelines.runtime.stage_class import Reads, Stage
from pipelines.runtime.summary import Summary
from schemas.errors import EngineError
from schemas.ids import canonical_json
from schemas.recipe import JudgeSection, PluginUse
from schemas.tables import Row, Votes, rows_frame
from transforms.judges.base import Judge as JudgePlugin
from transforms.judges.panel.sequential import PanelModel, fit_panel, panel_votes, untrained_panel, words_of
from transforms.llm.request import Ask
from transforms.llm.window import Caller, Ledger, Work
from transforms.plugins.base import Plugin
from transforms.plugins.build import build
from transforms.storage.memo import Memo
from transforms.storage.workspace import Output

FIT_USAGE = "fit-usage.json"  # what the panel's last fit asked, as checkpoints keep usage
JUDGES = "judges.json"  # the judges behind the latest checkpoints: template's hash and model
MIN_LABELLED = 20  # human labels below which a fitted panel would be noise
HUMAN_STAGES = ("ingest", "pull")  # whose votes of people a panel learns from


@dataclass(frozen=True)
class Judge(AskingStage):
    """Every judge's votes on every pair; all pairs of a prompt are one unit, so their requests share a prefix."""

    panel: PanelModel | None = None

    name: ClassVar[str] = "judge"
    kind: ClassVar[type[Plugin]] = JudgePlugin
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES),)

    @property
    def uses(self) -> list[PluginUse]:
        """The recipe's judges."""
        return self.recipe.judge.judges

    @property
    def section(self) -> JudgeSection:
        """The recipe's section `judge`."""
        return self.recipe.judge

    @cached_property
    def judges(self) -> list[JudgePlugin]:
        """The judges in order."""
        judges = [build(JudgePlugin, use, self.recipe.seed, self.base_dir) for use in self.uses]
        contexts = {name: engine.context_tokens for name, engine in self.engines.items()}
        for judge in judges:
            judge.bind(self.models, contexts)
        return judges

    @property
    def identity(self) -> Any:
        """The judges, how the panel stops, and the people it is fitted on."""
        judges = [[judge.name, judge.identity] for judge in self.judges]
        panel = self.recipe.judge.panel
        labels = self.labels if panel.is_sequential else None
        return [judges, panel.model_dump(mode="json", exclude_defaults=True), labels]

    def refresh(self) -> None:
        """Keep what the judges' votes rest on, for the manifest."""
        known = {judge.name: judge.evidence for judge in self.judges}
        data = canonical_json(known)
        if self.workspace.read_artefact(self.name, JUDGES) != data:
            self.workspace.write_artefact(self.name, JUDGES, data)

    @cached_property
    def labels(self) -> dict[str, float] | None:
        """What people said of the pairs a sequential panel is fitted on: 1 for a, 0 for b, by strict majority.

        Of at most `fit_pairs` pairs, those with the lowest ids; None where fewer than `MIN_LABELLED` have a label, so
        that the first answers change nothing yet.
        """
        frames = [
            self.workspace.read("votes", bucket, HUMAN_STAGES, ("pair_id", "kind", "label"))
            for bucket in self.workspace.buckets
        ]
        human = pl.concat(frames).filter(pl.col("kind") == "human", pl.col("label").is_in(["a", "b"]))
        share = human.group_by("pair_id").agg((pl.col("label") == "a").mean().alias("a"))
        decided = share.filter(pl.col("a") != 0.5).sort("pair_id").head(self.recipe.judge.panel.fit_pairs)
        found = {pair_id: float(a > 0.5) for pair_id, a in decided.iter_rows()}
        return found if len(found) >= MIN_LABELLED else None

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
            usage = usage_of(ledger)
            check_failures("stage judge, to fit the panel", ledger.failures, usage, self.section.max_failed_share)
            left = stage.budget.less(ledger.spent(), time.monotonic() - started)
            yield replace(stage, panel=panel, left=left)

    async def fitted_panel(self, ledger: Ledger) -> PanelModel:
        """Order, weights and stopping from the whole panel's words on pairs with human labels.

        Args:
            ledger: what was asked for it is put down here.
        """
        section, labels = self.recipe.judge.panel, self.labels
        names = [judge.name for judge in self.judges]
        if labels is None:
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

    def check(self, summary: Summary) -> None:
        """End the run where too many requests failed, or where no vote counts, unless the recipe lets all fail.

        Raises:
            EngineError: with counts, and what the judges' words were taken for.
        """
        super().check(summary)
        votes, lost = summary.counts.get("votes", 0), summary.counts.get("not_counted", 0)
        if votes and lost == votes and self.section.max_failed_share < 1.0:
            raise EngineError(
                f"stage judge: none of {votes:,} votes counts ({self._why_not()}): a version without a judge's vote is "
                "worse than none. Change the judges' template, model or max_tokens, or allow it with "
                "max_failed_share: 1"
            )

    def _why_not(self) -> str:
        """The votes that do not count, by state, with an example."""
        columns = ("label", "detail")
        frames = [self.workspace.read("votes", bucket, (self.name,), columns) for bucket in self.workspace.buckets]
        votes = pl.concat(frames)
        counts = votes["label"].value_counts().sort("count", "label", descending=[True, False])
        examples: list[str] = votes["detail"].drop_nulls().sort().head(1).to_list()
        said = ", ".join(f"{n:,} {label}" for label, n in counts.iter_rows())
        return "; for example: ".join([said, *examples])

    def notes(self, summary: Summary) -> list[str]:
        """What got no answer, which votes do not count, and whether the panel can stop at all."""
        said = super().notes(summary)
        votes, lost = summary.counts.get("votes", 0), summary.counts.get("not_counted", 0)
        if lost:
            said.append(f"stage judge: {lost:,} of {votes:,} votes do not count (invalid, refused or error)")
        panel = self.recipe.judge.panel
        if self.uses and panel.is_sequential and self.labels is None:
            said.append(untrained_note([use.name for use in self.uses], panel.stop_certainty))
        return said

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


def untrained_note(names: Sequence[str], stop_certainty: float) -> str:
    """What a panel can do without people's labels."""
    said = (
        f"stage judge: the panel is untrained, for fewer than {MIN_LABELLED} pairs have a human label (in sources or "
        "through `annotate`): judges count alike, and min_change has no effect"
    )
    most = untrained_panel(names).most_certain(len(names) - 1)
    if most >= stop_certainty:
        return said
    return f"{said}; P(the label) is {most:.2f} at most before the last judge, so stop_certainty spares no pair a judge"


def _output(n_pairs: int, results: list[list[Row]]) -> Output:
    votes = [vote for unit in results for vote in unit]
    invalid = sum(vote["label"] in ("invalid", "refused", "error") for vote in votes)
    return Output(
        {"votes": rows_frame(votes, Votes)},
        rows_in=n_pairs,
        rows_out=n_pairs,
        counts={"votes": len(votes), "not_counted": invalid},
    )

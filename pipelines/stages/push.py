"""Stage push: the queue is offered to people, on Label Studio as tasks; pushing twice adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from pipelines.runtime.annotation import (
    ASKED,
    LEDGER,
    RANKED,
    ledger,
    owner,
    page_config,
    pairs_by_id,
    queue,
    rankings,
    server,
    store_frame,
)
from pipelines.runtime.progress import LaneProgress
from pipelines.runtime.stage_class import Stage
from schemas.tables import Row
from transforms.annotate.label_studio import push
from transforms.annotate.ranking import new_rankings, ranked_queue, ranking_tasks, unasked
from transforms.annotate.tasks import pair_tasks
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Push(Stage):
    """The queue on the server. Where no server is configured the queue stays a table."""

    name: ClassVar[str] = "push"
    counts_units: ClassVar[bool] = True

    def refresh(self) -> None:
        """Make the server ask what the queue says, and remember what was offered: those answers are paid for."""
        tasks = queue(self.workspace)
        if self.recipe.annotate.plugin == "label_studio":
            self._send(tasks)
        store_frame(self.workspace, ASKED, tasks)

    def _send(self, tasks: pl.DataFrame) -> None:
        section = self.recipe.annotate
        groups = self._rankings(tasks)
        single, ranked = ranked_queue(tasks, groups)
        progress = LaneProgress(self.workspace, self.name, 0, single.height + ranked.height)
        before = 0

        def advance(done: int, total: int) -> None:
            progress.advance(before + done - progress.done)

        def pairs_of(ids: Sequence[str]) -> Mapping[str, Row]:
            return pairs_by_id(self.workspace, ids)

        studio = server(section)
        for queued, made in (
            (single, pair_tasks(pairs_of, page_config(self.recipe))),
            (ranked, ranking_tasks(pairs_of, groups)),
        ):
            push(
                studio,
                queued,
                made,
                ledger(self.workspace),
                lambda frame: store_frame(self.workspace, LEDGER, frame),
                name=section.project or self.recipe.name,
                owner=owner(self.workspace),
                batch_size=section.batch_size,
                progress=advance,
            )
            before = progress.done

    def _rankings(self, tasks: pl.DataFrame) -> pl.DataFrame:
        """The groups there are, with new ones of pairs that are in no task yet; stored before they are sent."""
        known, most = rankings(self.workspace), self.recipe.annotate.ranking
        if most is None:
            return known
        free = pairs_by_id(self.workspace, unasked(tasks, ledger(self.workspace), known))
        groups = pl.concat([known, new_rankings(free, most, self.recipe.seed)])
        store_frame(self.workspace, RANKED, groups)
        return groups

    @property
    def identity(self) -> object:
        """The ledger as it is now."""
        tasks = ledger(self.workspace)
        return [tasks.height, int(tasks["gone"].sum())]

    def process(self, bucket: int) -> Output:
        """How many of the bucket's pairs are asked about on the server."""
        mine = self.workspace.read("queue", bucket, ("route",), ["rank"])
        there = ledger(self.workspace).drop_nulls("task_id").select("pair_id")
        ranked = rankings(self.workspace).join(there, left_on="group_id", right_on="pair_id", how="semi")
        on_server = mine.join(pl.concat([there, ranked.select("pair_id")]).unique(), on="pair_id")
        return Output(rows_in=mine.height, rows_out=mine.height, counts={"asked": on_server.height})

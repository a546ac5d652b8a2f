"""Stage push: the queue becomes tasks on Label Studio; pushing twice adds nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.annotation import ASKED, LEDGER, ledger, page_config, pairs_by_id, queue, server, store_frame
from pipelines.progress import LaneProgress
from pipelines.stage import Stage
from transforms.annotate.label_studio import push
from transforms.storage.workspace import Output


@dataclass(frozen=True)
class Push(Stage):
    """The queue on the server. Where no server is configured the queue stays a table."""

    name: ClassVar[str] = "push"
    counts_units: ClassVar[bool] = True

    def refresh(self) -> None:
        """Make the server ask what the queue says."""
        if self.recipe.annotate.plugin != "label_studio":
            return
        tasks = queue(self.workspace)
        progress = LaneProgress(self.workspace, self.name, 0, tasks.height)

        def advance(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.done)

        push(
            server(self.recipe.annotate),
            tasks,
            lambda ids: pairs_by_id(self.workspace, ids),
            page_config(self.recipe),
            ledger(self.workspace),
            lambda frame: store_frame(self.workspace, LEDGER, frame),
            name=self.recipe.annotate.project or self.recipe.name,
            progress=advance,
        )
        store_frame(self.workspace, ASKED, tasks)

    @property
    def identity(self) -> object:
        """The ledger as it is now."""
        tasks = ledger(self.workspace)
        return [tasks.height, int(tasks["gone"].sum())]

    def process(self, bucket: int) -> Output:
        """How many tasks of the bucket's pairs stand on the server."""
        mine = self.workspace.read("queue", bucket, ("route",), ["rank"])
        there = ledger(self.workspace).select("pair_id", "task_id", "gone")
        on_server = mine.join(there, on="pair_id").drop_nulls("task_id")
        return Output(rows_in=mine.height, rows_out=mine.height, counts={"tasks": on_server.height})

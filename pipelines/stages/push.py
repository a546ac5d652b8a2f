"""Stage push: the queue is offered to people, on Label Studio as tasks; pushing twice adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
from pipelines.runtime.stage import Artefacts, Inputs, PerBucket, Run, Stage
from schemas.tables import Row
from transforms.annotate.label_studio import push
from transforms.annotate.ranking import new_rankings, ranked_queue, ranking_tasks, unasked
from transforms.annotate.tasks import pair_tasks
from transforms.storage.workspace import Output


class Asked(NamedTuple):
    """What people are asked on the server.

    Attributes:
        identity: size of the ledger, and how many of its tasks are gone.
        pair_ids: `pair_id` of every pair with a task of its own or in a ranking.
    """

    identity: list[int]
    pair_ids: pl.DataFrame


def _setup(run: Run) -> Asked:
    tasks = ledger(run.workspace)
    there = tasks.drop_nulls("task_id").select("pair_id")
    ranked = rankings(run.workspace).join(there, left_on="group_id", right_on="pair_id", how="semi")
    pair_ids = pl.concat([there, ranked.select("pair_id")]).unique()
    return Asked([tasks.height, int(tasks["gone"].sum())], pair_ids)


def _offer(run: Run) -> None:
    """Make the server ask what the queue says, and remember what was offered: those answers are paid for."""
    tasks = queue(run.workspace)
    if run.recipe.annotate.plugin == "label_studio":
        _send(run, tasks)
    store_frame(run.workspace, ASKED, tasks)


def _send(run: Run, tasks: pl.DataFrame) -> None:
    workspace, section = run.workspace, run.recipe.annotate
    groups = _rankings(run, tasks)
    single, ranked = ranked_queue(tasks, groups)
    progress = LaneProgress(workspace, "push", 0, single.height + ranked.height)
    before = 0

    def advance(done: int, total: int) -> None:
        progress.advance(before + done - progress.done)

    def pairs_of(ids: Sequence[str]) -> Mapping[str, Row]:
        return pairs_by_id(workspace, ids)

    studio = server(section)
    for queued, made in (
        (single, pair_tasks(pairs_of, page_config(run.recipe))),
        (ranked, ranking_tasks(pairs_of, groups)),
    ):
        push(
            studio,
            queued,
            made,
            ledger(workspace),
            lambda frame: store_frame(workspace, LEDGER, frame),
            name=section.project or run.recipe.name,
            owner=owner(workspace),
            batch_size=section.batch_size,
            progress=advance,
        )
        before = progress.done


def _rankings(run: Run, tasks: pl.DataFrame) -> pl.DataFrame:
    """The groups there are, with new ones of pairs that are in no task yet; stored before they are sent."""
    known, most = rankings(run.workspace), run.recipe.annotate.ranking
    if most is None:
        return known
    free = pairs_by_id(run.workspace, unasked(tasks, ledger(run.workspace), known))
    groups = pl.concat([known, new_rankings(free, most, run.recipe.seed)])
    store_frame(run.workspace, RANKED, groups)
    return groups


def pairs_asked(asked: Asked, inputs: Inputs, _: Artefacts) -> Output:
    """How many of the bucket's pairs are asked about on the server."""
    mine = inputs.read("queue", ["rank"])
    on_server = mine.join(asked.pair_ids, on="pair_id", how="semi")
    return Output(rows_in=mine.height, rows_out=mine.height, counts={"asked": on_server.height})


PUSH = Stage(
    name="push",
    version=1,
    reads={"queue": ("route",)},
    setup=_setup,
    observe=_offer,
    work=PerBucket(pairs_asked),
    conserves="queue",
)

"""From queued pairs to tasks, and the ledger that says which task on the server asks about which pair.

A task carries what the annotator must see and nothing else: no scores, no model names, no labels. The
ledger is ours: the server neither dedupes imports nor can be trusted to keep what it was given. A row is
written before its task is sent (`task_id` null) and confirmed afterwards, so after a crash between the
two the task is found on the server and not sent again. A row never goes: if the task was deleted on the
server it is marked `gone`, so that answers fetched earlier still find their pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl

from schemas.messages import Message
from schemas.tables import Row
from transforms.annotate.display import dialogue, images, page_text, shown_text
from transforms.annotate.page import PageConfig, pairwise_page

LEDGER = pl.Schema(
    {
        "pair_id": pl.String,  # or the id of a ranking's group (transforms/annotate/ranking.py)
        "project_id": pl.Int64,
        "task_id": pl.Int64,
        "page": pl.String,  # version of the labelling config
        "shown": pl.String,  # ab or ba: which stored response is A on the page
        "overlap": pl.Int32,  # answers the task asks for
        "purpose": pl.String,
        "gone": pl.Boolean,  # the task was deleted on the server
    }
)


@dataclass(frozen=True)
class Task:
    """A page and what it shows."""

    page: str  # labelling config
    data: dict[str, Any]


Tasks = Callable[[pl.DataFrame], list[Task]]  # queue rows -> a task each


def pair_tasks(pairs_of: Callable[[Sequence[str]], Mapping[str, Row]], config: PageConfig) -> Tasks:
    """Pairwise tasks; `pairs_of` gives the `pairs` rows of a batch of pair ids."""

    @cache
    def page(fields: frozenset[str]) -> str:
        attached = [name.removeprefix("images_") for name in sorted(fields) if name.startswith("images_")]
        return pairwise_page(config, context="context" in fields, images=attached)

    def tasks(batch: pl.DataFrame) -> list[Task]:
        pairs = pairs_of(batch["pair_id"].to_list())
        data = [task_data(pairs[p], shown) for p, shown in batch.select("pair_id", "shown").iter_rows()]
        return [Task(page(frozenset(d)), d) for d in data]

    return tasks


def empty_ledger() -> pl.DataFrame:
    """A ledger of no tasks."""
    return pl.DataFrame(schema=LEDGER)


def task_data(pair: Row, shown: str) -> dict[str, Any]:
    """The data of a pairwise task; `shown` says which stored response stands first on the page."""
    first, second = ("response_a", "response_b") if shown == "ab" else ("response_b", "response_a")
    data: dict[str, Any] = {
        "pair_id": pair["pair_id"],
        "conversation": dialogue(pair["prompt"]),
        "response_a": shown_text(page_text(pair[first])),
        "response_b": shown_text(page_text(pair[second])),
    }
    if pair.get("context"):
        data["context"] = shown_text(pair["context"])
    attached = {"prompt": images(pair["prompt"]), "a": images(pair[first]), "b": images(pair[second])}
    return data | {f"images_{where}": urls for where, urls in attached.items() if urls}


def ranking_data(group_id: str, prompt: list[Message], context: str | None, responses: list[str]) -> dict[str, Any]:
    """The data of a ranking task; `responses` are page texts in the order shown."""
    data: dict[str, Any] = {"pair_id": group_id, "conversation": dialogue(prompt)}
    data |= {f"response_{i}": shown_text(text) for i, text in enumerate(responses, start=1)}
    if context:
        data["context"] = shown_text(context)
    return data


def unpushed(queue: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """Queued pairs without a task on the server, best first."""
    there = ledger.filter(pl.col("task_id").is_not_null(), ~pl.col("gone"))
    return queue.join(there, on="pair_id", how="anti").sort("rank")


def announced(ledger: pl.DataFrame, batch: pl.DataFrame, project_id: int, page: str, overlap: int) -> pl.DataFrame:
    """The ledger before a batch of queue rows is sent; `overlap` is what the project gives new tasks."""
    rows = batch.select(
        "pair_id",
        "shown",
        "purpose",
        project_id=pl.lit(project_id),
        task_id=pl.lit(None),
        page=pl.lit(page),
        overlap=pl.lit(overlap),
        gone=pl.lit(False),
    )
    unsent = pl.col("task_id").is_null() & pl.col("pair_id").is_in(batch["pair_id"].implode())
    return pl.concat([ledger.filter(~unsent), rows.select(pl.col(n).cast(t) for n, t in LEDGER.items())])


def confirmed(ledger: pl.DataFrame, project_id: int, tasks: Mapping[str, int]) -> pl.DataFrame:
    """The ledger once the tasks (pair_id -> task_id) are known to be on the server."""
    stored = pl.DataFrame(
        {"pair_id": list(tasks), "_task": list(tasks.values())}, schema={"pair_id": pl.String, "_task": pl.Int64}
    )
    open_ = pl.col("task_id").is_null() & (pl.col("project_id") == project_id)
    joined = ledger.join(stored, on="pair_id", how="left", maintain_order="left")
    return joined.with_columns(pl.when(open_).then("_task").otherwise("task_id").alias("task_id")).drop("_task")


def recovered(on_server: Iterable[tuple[int, Any]], ledger: pl.DataFrame) -> dict[str, int]:
    """Tasks on the server that a crash kept from the ledger: pair_id -> task_id, the oldest of each pair.

    Args:
        on_server: (task_id, data.pair_id) of tasks on the server; whatever was not announced is left out.
    """
    unconfirmed = set(ledger.filter(pl.col("task_id").is_null())["pair_id"])
    known = set(ledger["task_id"].drop_nulls())
    out: dict[str, int] = {}
    for task_id, pair_id in sorted(on_server, key=lambda item: item[0]):
        if task_id not in known and pair_id in unconfirmed:
            out.setdefault(pair_id, task_id)
    return out


def without(ledger: pl.DataFrame, project_id: int, present: Iterable[int]) -> pl.DataFrame:
    """The ledger where tasks of the project that are not `present` on the server are marked gone."""
    there = pl.col("task_id").is_in(pl.Series(list(present), dtype=pl.Int64).implode())
    lost = (pl.col("project_id") == project_id) & pl.col("task_id").is_not_null() & ~there
    return ledger.with_columns(pl.col("gone") | lost)


def overlap_changes(queue: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """Tasks that should ask for another number of answers: `task_id`, `wanted`."""
    there = ledger.filter(pl.col("task_id").is_not_null(), ~pl.col("gone"))
    both = there.join(queue.select("pair_id", pl.col("overlap").alias("wanted")), on="pair_id", how="inner")
    return both.filter(pl.col("wanted") != pl.col("overlap")).select("task_id", "wanted").sort("task_id")


def with_overlap(ledger: pl.DataFrame, task_id: int, overlap: int) -> pl.DataFrame:
    """The ledger after one task's number of answers was changed."""
    changed = pl.when(pl.col("task_id") == task_id).then(overlap).otherwise("overlap").cast(pl.Int32)
    return ledger.with_columns(changed.alias("overlap"))


def waiting(queue: pl.DataFrame, annotations: pl.DataFrame) -> pl.DataFrame:
    """Queued pairs that still lack answers: `pair_id`, `wanted`, `answered`, `skipped`.

    A skip is no answer: its pair stays in the queue, for somebody else.
    """
    counts = annotations.group_by("pair_id").agg(
        pl.col("annotator").filter(~pl.col("cancelled")).n_unique().alias("answered"),
        pl.col("annotator").filter(pl.col("cancelled")).n_unique().alias("skipped"),
    )
    both = queue.select("pair_id", pl.col("overlap").alias("wanted")).join(counts, on="pair_id", how="left")
    both = both.with_columns(pl.col("answered", "skipped").fill_null(0).cast(pl.Int32))
    return both.filter(pl.col("answered") < pl.col("wanted")).sort("pair_id")

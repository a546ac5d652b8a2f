"""What people have to do with a workspace: what they are asked next, what they said, and what it shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipelines.inspect.tables import frame_of, table_frame
from pipelines.runtime.annotation import asked, ledger, pairs_by_id, queue
from pipelines.runtime.stage import CURRENT, PAIR_STAGES, VOTE_STAGES
from pipelines.stages.route import text_length
from schemas.errors import DataError
from schemas.tables import Row
from transforms.annotate.files import to_jsonl
from transforms.annotate.tasks import waiting
from transforms.stats.people import SLICES, People, people_statistics
from transforms.storage.workspace import Workspace

_TEXTS = ("prompt", "response_a", "response_b")


def open_tasks(root: str, annotator: str, answered: Path, limit: int) -> list[tuple[Row, str]]:
    """The first queued pairs that `annotator` has not answered in the file `answered`, with the order to show.

    Raises:
        DataError: a line of the file is no JSON object.
    """
    workspace = Workspace.open(root)
    done = set()
    if answered.exists():
        for number, line in enumerate(answered.read_bytes().splitlines(), start=1):
            if line.strip():
                row = _answer_on(line, answered, number)
                if row.get("annotator") == annotator:
                    done.add(str(row.get("pair_id")))
    wanted = [row for row in queue(workspace).iter_rows(named=True) if row["pair_id"] not in done][:limit]
    pairs = pairs_by_id(workspace, [row["pair_id"] for row in wanted])
    return [(pairs[row["pair_id"]], row["shown"]) for row in wanted]


def _answer_on(line: bytes, path: Path, number: int) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}:{number} is not JSON ({error}): fix or delete the line") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number} is {type(row).__name__}, not an object: fix or delete the line")
    return row


def annotations_jsonl(root: str) -> bytes:
    """Every valid annotation of a workspace as JSON lines."""
    return to_jsonl(frame_of(table_frame(Workspace.open(root), "annotations").sort("annotation_id")))


def outlook(workspace: Workspace) -> dict[str, Any] | None:
    """How many labels (`gain`) the next `labels` answers are expected to fix; None before the first routing."""
    current = workspace.read_artefact("route", CURRENT)
    data = None if current is None else workspace.read_artefact("route", f"{current.decode()}/outlook")
    expected: dict[str, Any] | None = None if data is None else orjson.loads(data)
    return expected


def people(workspace: Workspace) -> People | None:
    """Statistics of every valid answer; None if nobody has answered.

    Only answered pairs are held in memory, so the cost grows with the answers, not with the data.
    """
    parts = [answered for bucket in workspace.buckets if (answered := _answered(workspace, bucket)) is not None]
    if not parts:
        return None
    answers, verdicts, pairs, votes = (pl.concat(frames) for frames in zip(*parts, strict=True))
    offered = asked(workspace)
    sides = ["pair_id", "shown"]
    there = ledger(workspace).filter(~pl.col("gone")).select(sides)
    shown = pl.concat([there, offered.select(sides)]).unique("pair_id", keep="first", maintain_order=True)
    return people_statistics(
        answers.join(shown, on="pair_id", how="left"),
        verdicts,
        offered.filter(pl.col("purpose") == "control").select("pair_id", "known_label"),
        pairs,
        votes,
        waiting=waiting(offered, answers).height,
        outlook=outlook(workspace),
    )


def _answered(workspace: Workspace, bucket: int) -> tuple[pl.DataFrame, ...] | None:
    """Answers, and verdicts, features and votes of the answered pairs of a bucket."""
    answers = workspace.read("annotations", bucket, ("pull",))
    if answers.is_empty():
        return None
    ids = answers.select("pair_id").unique()

    def mine(table: str, stages: tuple[str, ...], columns: tuple[str, ...]) -> pl.DataFrame:
        return workspace.read(table, bucket, stages, columns).join(ids, on="pair_id", how="semi")

    n_chars = pl.sum_horizontal(text_length(c) for c in _TEXTS) + pl.col("context").str.len_chars().fill_null(0)
    pairs = mine("pairs", PAIR_STAGES, (*SLICES, *_TEXTS, "context"))
    return (
        answers,
        mine("verdicts", ("fuse",), ("prior", "contributions")),
        pairs.select("pair_id", *SLICES, n_chars.cast(pl.Int64).alias("n_chars")),
        mine("votes", VOTE_STAGES, ("pair_id", "voter", "kind", "label")).drop("vote_id"),
    )

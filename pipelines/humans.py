"""What the terminal annotator and the annotations file need of a workspace."""

from __future__ import annotations

from pathlib import Path

import orjson

from pipelines.annotation import pairs_by_id, queue
from pipelines.lookup import table_frame
from transforms.annotate.files import to_jsonl
from transforms.plugins import Row
from transforms.storage.workspace import Workspace


def open_tasks(root: str, annotator: str, answered: Path, limit: int) -> list[tuple[Row, str]]:
    """The first queued pairs that `annotator` has not answered in the file `answered`, with the order to show."""
    workspace = Workspace.open(root)
    done = set()
    if answered.exists():
        rows = [orjson.loads(line) for line in answered.read_bytes().splitlines() if line.strip()]
        done = {row["pair_id"] for row in rows if row.get("annotator") == annotator}
    wanted = [row for row in queue(workspace).iter_rows(named=True) if row["pair_id"] not in done][:limit]
    pairs = pairs_by_id(workspace, [row["pair_id"] for row in wanted])
    return [(pairs[row["pair_id"]], row["shown"]) for row in wanted]


def annotations_jsonl(root: str) -> bytes:
    """Every valid annotation of a workspace as JSON lines."""
    return to_jsonl(table_frame(Workspace.open(root), "annotations").sort("annotation_id").collect())

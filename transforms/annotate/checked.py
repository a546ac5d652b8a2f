"""What counts of many checked answers: one per pair and annotator, one per id; every other one is a reject."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from schemas.rows import reject_row, told_apart
from schemas.tables import Annotations, Rejects, Row, rows_frame

STAGE = "pull"


class AnswerError(ValueError):
    """An answer that cannot be believed; `reason` is its reject code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Answers:
    """Valid rows and rejects; together as many as there were records (of a ranking: as many as its pairs)."""

    annotations: pl.DataFrame
    rejects: pl.DataFrame


def one_per_pair_and_annotator(rows: Iterable[Row], rejects: Iterable[Row]) -> Answers:
    """Valid rows and rejects as frames: one answer per (pair, annotator) and one per id, all others rejects."""
    kept, superseded = latest(rows)
    again = [
        reject("superseded", row["annotation_id"], f"{row['annotator']} answered this pair again later.", row)
        for row in superseded
    ]
    by_id: dict[str, Row] = {}
    for row in sorted(kept, key=lambda r: (r["updated_at"], r["pair_id"], r["annotator"])):
        if row["annotation_id"] in by_id:
            other = by_id[row["annotation_id"]]
            detail = (
                f"{other['annotator']} on pair {other['pair_id']} has this annotation_id; give every answer its own."
            )
            again.append(reject("duplicate_id", row["annotation_id"], detail, row))
        else:
            by_id[row["annotation_id"]] = row
    return Answers(
        rows_frame(sorted(by_id.values(), key=lambda r: r["annotation_id"]), Annotations),
        rows_frame(sorted(told_apart([*rejects, *again]), key=lambda r: r["reject_id"]), Rejects),
    )


def merged(parts: Iterable[Answers]) -> Answers:
    """The answers of a server and of files as one; where two sources disagree, as `one_per_pair_and_annotator` says."""
    sources = list(parts)
    return one_per_pair_and_annotator(
        [row for part in sources for row in part.annotations.iter_rows(named=True)],
        [row for part in sources for row in part.rejects.iter_rows(named=True)],
    )


def latest(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """One answer per (pair, annotator): the one updated last, an answer before a skip; and the others."""
    best: dict[tuple[str, str], Row] = {}
    others: list[Row] = []
    for row in sorted(rows, key=lambda r: (not r["cancelled"], r["updated_at"], r["annotation_id"])):
        key = row["pair_id"], row["annotator"]
        if key in best:
            others.append(best[key])
        best[key] = row
    return list(best.values()), others


def reject(reason: str, record_id: str, detail: str, payload: Any) -> Row:
    """A `rejects` row of the pull stage."""
    # The server passes on lone surrogates; escaped as ASCII they stay readable and can be stored.
    text = json.dumps(payload, sort_keys=True, default=str)
    return reject_row(STAGE, reason, record_id, detail.encode("utf-8", "backslashreplace").decode(), text)

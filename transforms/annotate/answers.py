"""From what an annotation server returns to `annotations` rows: every answer is checked, none believed.

The server accepts empty and off-schema results, answers in somebody else's name and several answers by
one person, so each record is either a valid row in terms of the stored a and b, or a reject that says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import PAYLOAD_LIMIT, Annotations, Rejects, rows_frame
from transforms.annotate.display import page_text, shown_text, stored_span
from transforms.annotate.page import FLAGS, LABELS, PageConfig
from transforms.plugins import Row

if TYPE_CHECKING:
    from transforms.annotate.ranking import Ranking

STAGE = "pull"

_PREFERENCES = {"A": "a", "B": "b", "Tie": "tie", "Both bad": "both_bad"} | {label: label for label in LABELS}
_STRENGTHS = {"1 negligible": 1, "2 slight": 2, "3 clear": 3, "4 much": 4} | {str(i): i for i in range(1, 5)}
_VALUE_KEY = {"choices": "choices", "rating": "rating", "textarea": "text", "labels": "labels"}


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


def read_answers(
    records: Iterable[Row],
    ledger: pl.DataFrame,
    pairs: Mapping[str, Row],
    config: PageConfig,
    annotators: Mapping[int, str],
    controls: Iterable[str] = (),
    rankings: Mapping[str, Ranking] | None = None,
) -> Answers:
    """Check records as Label Studio gives them.

    Args:
        records: annotations of the server's API, each with its `project` and `task`.
        ledger: `transforms.annotate.tasks.LEDGER`; an answer to a task it does not hold is rejected.
        pairs: pair_id -> `pairs` row (responses are needed to check spans).
        annotators: the server's user id -> name under which answers are stored; others are rejected.
        controls: pair ids of controls.
        rankings: group id -> the ranking it asks for; a valid ranking is one row for each of its pairs.
    """
    groups = rankings or {}
    sent = ledger.filter(pl.col("task_id").is_not_null())
    tasks = {(row["project_id"], row["task_id"]): row for row in sent.iter_rows(named=True)}
    control_ids = set(controls)
    rows: list[Row] = []
    rejects: list[Row] = []
    for record in records:
        try:
            found = _answer(record, tasks, pairs, config, annotators, groups)
        except AnswerError as error:
            rejects.append(reject(error.reason, f"task {record.get('task')}:{record.get('id')}", str(error), record))
        else:
            rows += [row | {"control": row["pair_id"] in control_ids} for row in found]
    return collected(rows, rejects)


def collected(rows: Iterable[Row], rejects: Iterable[Row]) -> Answers:
    """Valid rows and rejects as frames; what an annotator said before the last time becomes a reject."""
    kept, superseded = latest(rows)
    again = [
        reject("superseded", row["annotation_id"], f"{row['annotator']} answered this pair again later.", row)
        for row in superseded
    ]
    return Answers(
        rows_frame(sorted(kept, key=lambda r: r["annotation_id"]), Annotations),
        rows_frame(sorted([*rejects, *again], key=lambda r: r["reject_id"]), Rejects),
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
    text = json.dumps(payload, sort_keys=True, default=str)[:PAYLOAD_LIMIT]
    detail = detail.encode("utf-8", "backslashreplace").decode()
    return {
        "reject_id": hash_fields(STAGE, reason, record_id, text),
        "stage": STAGE,
        "reason": reason,
        "record_id": record_id,
        "detail": detail,
        "payload": text,
    }


def _answer(
    record: Row,
    tasks: Mapping[tuple[int, int], Row],
    pairs: Mapping[str, Row],
    config: PageConfig,
    annotators: Mapping[int, str],
    rankings: Mapping[str, Ranking],
) -> list[Row]:
    task = tasks.get((record.get("project", -1), record.get("task", -1)))
    if task is None:
        raise AnswerError("unknown_task", "The answered task is not in the ledger: it was not pushed from here.")
    pair, ranking = pairs.get(task["pair_id"]), rankings.get(task["pair_id"])
    if pair is None and ranking is None:
        raise AnswerError("unknown_pair", "The answered pair is no longer in the workspace.")
    user, editor = record.get("completed_by"), record.get("updated_by")
    if not isinstance(user, int) or user not in annotators:
        raise AnswerError("unknown_annotator", f"User {user} is not one of the annotators.")
    if editor is not None and editor != user:
        raise AnswerError("forged_annotator", f"The answer is in the name of user {user} but was written by {editor}.")
    row: Row = {
        "annotation_id": hash_fields("annotation", str(task["project_id"]), str(task["task_id"]), str(record["id"])),
        "task_id": str(task["task_id"]),
        "pair_id": task["pair_id"],
        "annotator": annotators[user],
        "seconds": _seconds(record.get("lead_time")),
        "cancelled": bool(record.get("was_cancelled")),
        "updated_at": utc(record.get("updated_at")),
    }
    if ranking is not None:
        return ranking.rows(row, record.get("result"))
    if row["cancelled"] or pair is None:
        return [row]
    return [row | read_result(record.get("result"), pair, task["shown"], config)]


def read_result(result: Any, pair: Row, shown: str, config: PageConfig) -> Row:
    """The answer itself: `label`, `strength`, `aspects`, `spans`, `rationale` in terms of the stored a and b.

    Raises:
        AnswerError: empty, not what the page offers, or a span that is not where it says.
    """
    if not isinstance(result, list):
        raise AnswerError("off_schema", f"The result is {type(result).__name__}, not a list.")
    if not result:
        raise AnswerError("empty_result", "The answer is empty.")
    single: dict[str, Any] = {}
    spans: list[Row] = []
    for item in result:
        name, value = _item(item)
        if name in ("spans_a", "spans_b"):
            spans.append(_span(value, _stored_side(name[-1], shown), pair, config))
        elif name in single:
            raise AnswerError("off_schema", f"{name} is answered twice.")
        else:
            single[name] = value
    label = _choice(single.pop("preference", None), _PREFERENCES, "preference")
    strength = single.pop("strength", None)
    rationale = single.pop("rationale", None)
    aspects = _aspects(single, shown, config)
    flags = _flags(single.pop("flags", None))
    if single:
        raise AnswerError("off_schema", f"The page has no field {sorted(single)[0]!r}.")
    if flags:
        aspects["flags"] = flags
    return {
        "label": label if shown == "ab" else mirrored(label),
        "strength": _choice(strength, _STRENGTHS, "strength") if strength is not None and label in "ab" else None,
        "aspects": orjson.dumps(aspects, option=orjson.OPT_SORT_KEYS).decode() if aspects else None,
        "spans": orjson.dumps(sorted(spans, key=_span_order)).decode() if spans else None,
        "rationale": text_of_answer(rationale),
    }


def _item(item: Any) -> tuple[str, Any]:
    if not isinstance(item, dict):
        raise AnswerError("off_schema", f"A part of the result is {type(item).__name__}, not an object.")
    name, kind, value = item.get("from_name"), item.get("type"), item.get("value")
    key = _VALUE_KEY.get(str(kind))
    if not isinstance(name, str) or key is None or not isinstance(value, dict) or key not in value:
        raise AnswerError("off_schema", f"A part of the result is no answer of the page: {str(item)[:200]}")
    if name.startswith("spans_") != (kind == "labels"):
        raise AnswerError("off_schema", f"{name} is answered by {kind}.")
    return name, value if kind == "labels" else value[key]


def _choice(value: Any, known: Mapping[str, Any], name: str) -> Any:
    if not isinstance(value, list) or len(value) != 1 or value[0] not in known:
        raise AnswerError("off_schema", f"{name} is {value!r}; expected one of {', '.join(known)}.")
    return known[value[0]]


def _aspects(single: dict[str, Any], shown: str, config: PageConfig) -> dict[str, Any]:
    """Takes the ratings out of `single`."""
    out: dict[str, Any] = {}
    for side in "ab":
        for aspect in config.aspects:
            rating = single.pop(f"{side}_{aspect}", None)
            if rating is None:
                continue
            if isinstance(rating, bool) or not isinstance(rating, int) or not 1 <= rating <= 5:
                raise AnswerError("off_schema", f"{side}_{aspect} is {rating!r}; expected 1 to 5.")
            out.setdefault(_stored_side(side, shown), {})[aspect] = rating
    return out


def _flags(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not set(map(str, value)) <= set(FLAGS):
        raise AnswerError("off_schema", f"flags is {value!r}; expected some of {', '.join(FLAGS)}.")
    return sorted(set(value))


def text_of_answer(value: Any) -> str | None:
    """A rationale: its lines as one text, None where it is empty.

    Raises:
        AnswerError: not text, or not valid Unicode.
    """
    parts = [value] if isinstance(value, str) else value
    if parts is None:
        return None
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
        raise AnswerError("off_schema", f"rationale is {value!r}; expected text.")
    text = "\n".join(parts).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AnswerError("off_schema", f"rationale is not valid Unicode at character {error.start}.") from None
    return text or None


def _span(value: Row, side: str, pair: Row, config: PageConfig) -> Row:
    start, end, kinds = value.get("start"), value.get("end"), value.get("labels")
    if not isinstance(kinds, list) or len(kinds) != 1 or kinds[0] not in config.span_kinds:
        raise AnswerError("off_schema", f"a span is labelled {kinds!r}; expected one of {config.span_kinds}.")
    text = page_text(pair[f"response_{side}"])
    page = shown_text(text)
    if isinstance(start, bool) or isinstance(end, bool) or not isinstance(start, int) or not isinstance(end, int):
        raise AnswerError("bad_span", f"a span reaches from {start!r} to {end!r}; expected whole numbers.")
    try:
        first, last = stored_span(text, start, end)
    except ValueError as error:
        raise AnswerError("bad_span", f"{error}.") from None
    said = value.get("text")
    if said is not None and _plain(said) != _plain(page[start:end]):
        raise AnswerError("bad_span", f"the text at {start}:{end} is {page[start:end]!r}, the span says {said!r}.")
    return {"response": side, "start": first, "end": last, "text": text[first:last], "kind": kinds[0]}


def _plain(text: Any) -> str:
    """Text as browsers return it: line ends as LF, some as the two characters of an escape."""
    return str(text).replace("\\n", "\n").replace("\r\n", "\n").replace("\r", "\n")


def _span_order(span: Row) -> tuple[Any, ...]:
    return span["response"], span["start"], span["end"], span["kind"]


def _stored_side(side: str, shown: str) -> str:
    return side if shown == "ab" else mirrored(side)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise AnswerError("off_schema", f"lead_time is {value!r}; expected seconds.")
    return float(value)


def utc(value: Any) -> str:
    """A time as RFC 3339 in UTC with microseconds, so that texts sort as times do.

    Raises:
        AnswerError: not a time with a zone.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise AnswerError("off_schema", f"updated_at is {value!r}; expected a time with a zone (RFC 3339).")
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

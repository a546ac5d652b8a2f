"""annotations.jsonl: the same answers for teams whose annotators use another tool.

One JSON object per line, the columns of `schemas.tables.Annotations`; `annotation_id`, `task_id`, `control`
and `cancelled` may be left out. `label` is in terms of the stored a and b; where the tool showed the
responses the other way round, say `"shown": "ba"` and give the label, aspects and spans as shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import polars as pl

from schemas.ids import ID_PATTERN, hash_fields
from schemas.pairs import mirrored
from schemas.tables import Annotations, Row
from transforms.annotate.answers import flags, seconds, utc
from transforms.annotate.checked import AnswerError, Answers, one_per_pair_and_annotator, reject
from transforms.annotate.display import page_text
from transforms.annotate.page import LABELS

_KNOWN = frozenset((*Annotations.columns(), "shown"))
_SPAN = frozenset(("response", "start", "end", "text", "kind"))


def to_jsonl(annotations: pl.DataFrame) -> bytes:
    """The rows as JSON lines; `aspects` and `spans` as JSON, not as text of JSON."""
    lines = []
    for row in annotations.iter_rows(named=True):
        for name in ("aspects", "spans"):
            row[name] = None if row[name] is None else orjson.loads(row[name])
        lines.append(orjson.dumps({k: v for k, v in row.items() if v is not None}) + b"\n")
    return b"".join(lines)


def from_jsonl(
    lines: Iterable[bytes], pairs: Mapping[str, Row], controls: Iterable[str] = (), *, name: str = "annotations.jsonl"
) -> Answers:
    """Check the lines of a file; together, rows and rejects are as many as the lines that are not blank.

    Args:
        pairs: pair_id -> `pairs` row.
        controls: pair ids of controls.
        name: of the file, for messages.
    """
    control_ids = set(controls)
    rows: list[Row] = []
    rejects: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            row = _row(line, pairs)
        except AnswerError as error:
            rejects.append(reject(error.reason, where, str(error), line.decode("utf-8", "replace")))
        else:
            rows.append(row | {"control": row["pair_id"] in control_ids})
    return one_per_pair_and_annotator(rows, rejects)


def _row(line: bytes, pairs: Mapping[str, Row]) -> Row:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise AnswerError("off_schema", f"not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise AnswerError("off_schema", f"a line is {type(given).__name__}, not an object.")
    unknown = sorted(set(given) - _KNOWN)
    if unknown:
        raise AnswerError("off_schema", f"no such field: {unknown[0]!r}; known: {', '.join(sorted(_KNOWN))}.")
    pair_id = given.get("pair_id")
    pair = pairs.get(pair_id) if isinstance(pair_id, str) else None
    if pair is None:
        raise AnswerError("unknown_pair", f"no pair {pair_id!r} in the workspace.")
    annotator = given.get("annotator")
    if not isinstance(annotator, str) or not annotator.strip():
        raise AnswerError("unknown_annotator", "annotator is missing: who answered?")
    shown = given.get("shown", "ab")
    if shown not in ("ab", "ba"):
        raise AnswerError("off_schema", f"shown is {shown!r}; expected 'ab' or 'ba'.")
    task_id = given.get("task_id")
    if task_id is not None and type(task_id) not in (str, int):
        raise AnswerError("off_schema", f"task_id is {task_id!r}; leave it out or give a text or a number.")
    task_id = f"file-{pair['pair_id']}" if task_id in (None, "") else str(task_id)
    updated_at = utc(given.get("updated_at"))
    annotation_id = given.get("annotation_id")
    if annotation_id is None:
        annotation_id = hash_fields("annotation", task_id, annotator, updated_at)
    if not isinstance(annotation_id, str) or not re.fullmatch(ID_PATTERN, annotation_id):
        raise AnswerError("off_schema", f"annotation_id is {annotation_id!r}; leave it out or give 32 hex digits.")
    cancelled = given.get("cancelled", False)
    if not isinstance(cancelled, bool):
        raise AnswerError("off_schema", f"cancelled is {cancelled!r}; expected true or false.")
    return {
        "annotation_id": annotation_id,
        "task_id": task_id,
        "pair_id": pair["pair_id"],
        "annotator": annotator,
        "cancelled": cancelled,
        "updated_at": updated_at,
        "seconds": seconds(given.get("seconds"), "seconds"),
        "rationale": _text(given.get("rationale")),
    } | ({} if cancelled else _judgement(given, pair, shown))


def _judgement(given: Row, pair: Row, shown: str) -> Row:
    label, strength = given.get("label"), given.get("strength")
    if label not in LABELS:
        raise AnswerError("off_schema", f"label is {label!r}; expected one of {', '.join(LABELS)}.")
    if strength is not None and (type(strength) is not int or not 1 <= strength <= 4):
        raise AnswerError("off_schema", f"strength is {strength!r}; expected 1 to 4.")
    if strength is not None and label not in ("a", "b"):
        raise AnswerError("off_schema", f"strength is {strength!r} with label {label}: nothing is better by that much.")
    spans = [_span(item, pair, shown) for item in _list(given.get("spans"))]
    aspects = _aspects(given.get("aspects"), shown)
    return {
        "label": label if shown == "ab" else mirrored(label),
        "strength": strength,
        "aspects": orjson.dumps(aspects, option=orjson.OPT_SORT_KEYS).decode() if aspects else None,
        "spans": orjson.dumps(spans).decode() if spans else None,
    }


def _aspects(value: Any, shown: str) -> Row:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AnswerError("off_schema", f"aspects is {type(value).__name__}, not an object.")
    unknown = sorted(set(value) - {"a", "b", "flags"})
    if unknown:
        raise AnswerError("off_schema", f"aspects has no part {unknown[0]!r}; known: a, b, flags.")
    for side in set(value) & {"a", "b"}:
        ratings = value[side]
        if not isinstance(ratings, dict) or not all(type(r) is int and 1 <= r <= 5 for r in ratings.values()):
            raise AnswerError("off_schema", f"aspects of {side} are {ratings!r}; expected name: 1 to 5.")
    out = {(key if shown == "ab" else mirrored(key)): value[key] for key in set(value) & {"a", "b"}}
    ticked = flags(value.get("flags"))
    return out | ({"flags": ticked} if ticked else {})


def _span(item: Any, pair: Row, shown: str) -> Row:
    if not isinstance(item, dict) or set(item) != _SPAN or item["response"] not in ("a", "b"):
        raise AnswerError("off_schema", f"a span is {item!r}; expected response, start, end, text, kind.")
    side = item["response"] if shown == "ab" else mirrored(item["response"])
    text, start, end = page_text(pair[f"response_{side}"]), item["start"], item["end"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise AnswerError("bad_span", f"a span reaches from {start!r} to {end!r} of {len(text)} characters.")
    if not isinstance(item["kind"], str):
        raise AnswerError("off_schema", f"the kind of a span is {item['kind']!r}; expected text.")
    if text[start:end] != item["text"]:
        raise AnswerError("bad_span", f"the text at {start}:{end} is {text[start:end]!r}, not {item['text']!r}.")
    return {**item, "response": side}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise AnswerError("off_schema", f"spans is {type(value).__name__}, not a list.")
    return value


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise AnswerError("off_schema", f"rationale is {type(value).__name__}, not text.")
    return value

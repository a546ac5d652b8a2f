"""From what an annotation server returns to `annotations` rows: every answer is checked, none believed.

The server accepts empty and off-schema results, answers in somebody else's name and several answers by
one person, so each record is either a valid row in terms of the stored a and b, or a reject that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl

from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import Row
from transforms.annotate.checked import AnswerError, Answers, one_per_pair_and_annotator, reject
from transforms.annotate.display import page_text, shown_text, stored_span
from transforms.annotate.page import FLAGS, LABELS, PageConfig

if TYPE_CHECKING:
    from transforms.annotate.ranking import Ranking

_PREFERENCES = {"A": "a", "B": "b", "Tie": "tie", "Both bad": "both_bad"} | {label: label for label in LABELS}
_STRENGTHS = {"1 negligible": 1, "2 slight": 2, "3 clear": 3, "4 much": 4} | {str(i): i for i in range(1, 5)}
_VALUE_KEY = {"choices": "choices", "rating": "rating", "textarea": "text", "labels": "labels"}
_ONE_SAVE = timedelta(seconds=1)  # the server stamps creation and change of one save apart by microseconds


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
            answers = _answer(record, tasks, pairs, config, annotators, groups)
        except AnswerError as error:
            rejects.append(reject(error.reason, f"task {record.get('task')}:{record.get('id')}", str(error), record))
        else:
            rows += [row | {"control": row["pair_id"] in control_ids} for row in answers if row["pair_id"] in pairs]
            # A ranking answers every pair it shows, also those that the recipe makes no more.
            rejects += [
                reject("unknown_pair", row["annotation_id"], "The ranked pair is no longer in the workspace.", row)
                for row in answers
                if row["pair_id"] not in pairs
            ]
    return one_per_pair_and_annotator(rows, rejects)


def _answer(
    record: Row,
    tasks: Mapping[tuple[int, int], Row],
    pairs: Mapping[str, Row],
    config: PageConfig,
    annotators: Mapping[int, str],
    rankings: Mapping[str, Ranking],
) -> list[Row]:
    where = record.get("project"), record.get("task")
    task = tasks.get((where[0], where[1])) if type(where[0]) is int and type(where[1]) is int else None
    if task is None:
        raise AnswerError("unknown_task", "The answered task is not in the ledger: it was not pushed from here.")
    pair, ranking = pairs.get(task["pair_id"]), rankings.get(task["pair_id"])
    if pair is None and ranking is None:
        raise AnswerError("unknown_pair", "The answered pair is no longer in the workspace.")
    user, editor = record.get("completed_by"), record.get("updated_by")
    if type(user) is not int or user not in annotators:
        raise AnswerError("unknown_annotator", f"User {user} is not one of the annotators.")
    if editor is not None and editor != user:
        raise _not_their_own(record, user, editor)
    row: Row = {
        "annotation_id": hash_fields(
            "annotation", str(task["project_id"]), str(task["task_id"]), str(record.get("id"))
        ),
        "task_id": str(task["task_id"]),
        "pair_id": task["pair_id"],
        "annotator": annotators[user],
        "seconds": seconds(record.get("lead_time"), "lead_time"),
        "cancelled": bool(record.get("was_cancelled")),
        "updated_at": utc(record.get("updated_at")),
    }
    if ranking is not None:
        return ranking.rows(row, record.get("result"))
    if row["cancelled"] or pair is None:
        return [row]
    return [row | read_result(record.get("result"), pair, task["shown"], config)]


def _not_their_own(record: Row, user: int, editor: Any) -> AnswerError:
    """Why an answer last saved by somebody else is not believed: it was made in another's name, or changed later.

    The server names the author in `completed_by` and the last editor in `updated_by`; if they differ, the answer is
    rejected. What the author said is gone from the server, and the editor never answered.
    """
    if created := record.get("created_at"):
        changed = datetime.fromisoformat(utc(record.get("updated_at"))) - datetime.fromisoformat(utc(created))
        if changed > _ONE_SAVE:
            return AnswerError(
                "edited_by_another",
                f"User {editor} changed the answer of user {user}: whoever disagrees answers the task themselves; "
                "saved once more by its author it counts again.",
            )
    return AnswerError("forged_annotator", f"The answer is in the name of user {user} but was written by {editor}.")


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
    flagged = flags(single.pop("flags", None))
    if single:
        raise AnswerError("off_schema", f"The page has no field {sorted(single)[0]!r}.")
    if flagged:
        aspects["flags"] = flagged
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
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str) or value[0] not in known:
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


def flags(value: Any) -> list[str]:
    """What is ticked beside an answer, sorted.

    Raises:
        AnswerError: not a list of `FLAGS`.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(flag, str) and flag in FLAGS for flag in value):
        raise AnswerError("off_schema", f"flags is {value!r}; expected some of {', '.join(FLAGS)}.")
    return sorted(set(value))


def text_of_answer(value: Any) -> str | None:
    """A rationale: its lines as one text, None if it is empty.

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
    quoted = value.get("text")
    if quoted is not None and _plain(quoted) != _plain(page[start:end]):
        raise AnswerError("bad_span", f"the text at {start}:{end} is {page[start:end]!r}, the span says {quoted!r}.")
    return {"response": side, "start": first, "end": last, "text": text[first:last], "kind": kinds[0]}


def _plain(text: Any) -> str:
    """Text as browsers return it: line ends as LF, some as the two characters of an escape."""
    return str(text).replace("\\n", "\n").replace("\r\n", "\n").replace("\r", "\n")


def _span_order(span: Row) -> tuple[Any, ...]:
    return span["response"], span["start"], span["end"], span["kind"]


def _stored_side(side: str, shown: str) -> str:
    return side if shown == "ab" else mirrored(side)


def seconds(value: Any, name: str) -> float | None:
    """A duration.

    Raises:
        AnswerError: neither absent nor a number from 0 up to a billion.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise AnswerError("off_schema", f"{name} is {value!r}; expected seconds.")
    return float(value)


def utc(value: Any) -> str:
    """A time as RFC 3339 in UTC with microseconds, so that texts sort as times do.

    Raises:
        AnswerError: not a time with a zone.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        if time.tzinfo is not None:
            return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except (ValueError, OverflowError):  # no time, or none that UTC can express
        pass
    raise AnswerError("off_schema", f"a time is {value!r}; expected one with a zone (RFC 3339).")

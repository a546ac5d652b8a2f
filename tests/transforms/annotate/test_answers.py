"""Every answer is a valid row in terms of the stored a and b, or a reject with its reason."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from schemas.ids import hash_fields
from schemas.messages import message
from schemas.pairs import mirrored
from schemas.tables import Annotations, Queue, Rejects, Votes, rows_frame
from tests.transforms.annotate.replay import answer, choices, span
from transforms.annotate.answers import read_answers, read_result, utc
from transforms.annotate.checked import AnswerError, merged
from transforms.annotate.files import from_jsonl, to_jsonl
from transforms.annotate.page import PageConfig
from transforms.annotate.tasks import (
    LEDGER,
    announced,
    confirmed,
    empty_ledger,
    overlap_changes,
    recovered,
    unpushed,
    waiting,
    without,
)
from transforms.annotate.terminal import annotate
from transforms.annotate.votes import held_out_answers, known_answers, votes_of

CONFIG = PageConfig()
IDS = [hash_fields("pair", str(i)) for i in range(4)]
PAIRS: dict[str, dict[str, Any]] = {
    i: {
        "pair_id": i,
        "prompt": [message("user", "question")],
        "context": None,
        "response_a": [message("assistant", "alpha \u202ebeta")],
        "response_b": [message("assistant", "gamma delta")],
    }
    for i in IDS
}
SIX_STARS = {"from_name": "a_helpful", "type": "rating", "value": {"rating": 6}}
SURROGATE = {"from_name": "rationale", "type": "textarea", "value": {"text": ["\ud800"]}}
NAMES = {1: "ann", 2: "bob"}


def ledger(shown: str = "ab") -> pl.DataFrame:
    rows = [
        {"pair_id": p, "project_id": 1, "task_id": n, "page": "v", "shown": shown, "overlap": 2, "purpose": "value"}
        for n, p in enumerate(IDS)
    ]
    return pl.DataFrame([{**row, "gone": False} for row in rows], schema=LEDGER)


def record(task: int = 0, user: int = 1, result: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": fields.pop("id", task * 10 + user),
        "project": 1,
        "task": task,
        "completed_by": user,
        "updated_by": user,
        "was_cancelled": False,
        "lead_time": 4.0,
        "updated_at": "2026-01-02T03:04:05.678901Z",
        "result": answer("a", "ab") if result is None else result,
        **fields,
    }


def rejected(**fields: Any) -> str:
    found = read_answers([record(**fields)], ledger(), PAIRS, CONFIG, NAMES)
    assert found.annotations.height == 0
    return str(found.rejects["reason"].item())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task": 99}, "unknown_task"),
        ({"user": 7}, "unknown_annotator"),
        ({"updated_by": 2}, "forged_annotator"),
        ({"updated_by": 2, "created_at": "2026-01-02T03:04:05.678899Z"}, "forged_annotator"),
        ({"updated_by": 2, "created_at": "2026-01-02T02:00:00Z"}, "edited_by_another"),
        ({"result": []}, "empty_result"),
        ({"result": {}}, "off_schema"),
        ({"result": [5]}, "off_schema"),
        ({"result": [choices("strength", "3")]}, "off_schema"),
        ({"result": [choices("preference", "C")]}, "off_schema"),
        ({"result": [choices("preference", "a", "b")]}, "off_schema"),
        ({"result": [choices("preference", "a"), choices("preference", "b")]}, "off_schema"),
        ({"result": [*answer("a", "ab"), choices("mood", "good")]}, "off_schema"),
        ({"result": [choices("preference", "a"), choices("strength", "9")]}, "off_schema"),
        ({"result": [*answer("a", "ab"), choices("flags", "boring")]}, "off_schema"),
        ({"result": [*answer("a", "ab"), span("a", 0, 5, "alpha", "brilliant")]}, "off_schema"),
        ({"result": [*answer("a", "ab"), span("a", 0, 5, "gamma", "good")]}, "bad_span"),
        ({"result": [*answer("a", "ab"), span("a", 5, 500, "x", "good")]}, "bad_span"),
        ({"result": [{"from_name": "preference", "type": "rating", "value": {"rating": 3}}]}, "off_schema"),
        ({"result": [*answer("a", "ab"), SIX_STARS]}, "off_schema"),
        ({"result": [*answer("a", "ab"), SURROGATE]}, "off_schema"),
        ({"result": [*answer("a", "ab"), choices("\ud800", "x")]}, "off_schema"),
        ({"lead_time": -3}, "off_schema"),
        ({"updated_at": "yesterday"}, "off_schema"),
        ({"updated_at": "2026-01-02T03:04:05"}, "off_schema"),
    ],
)  # fmt: skip
def test_unbelievable_answers_are_rejected_with_their_reason(fields: dict[str, Any], reason: str) -> None:
    assert rejected(**fields) == reason


@given(st.sampled_from(["a", "b", "tie", "both_bad"]), st.sampled_from(["ab", "ba"]), st.integers(1, 5))
def test_the_order_shown_is_undone(label: str, shown: str, rating: int) -> None:
    on_page = "a" if shown == "ab" else "b"
    marks = [
        span(on_page, 6, 10, "beta", "good"),
        {"from_name": f"{on_page}_helpful", "type": "rating", "value": {"rating": rating}},
        {"from_name": "rationale", "type": "textarea", "value": {"text": ["because"]}},
    ]
    row = read_result([*answer(label, shown), *marks], PAIRS[IDS[0]], shown, CONFIG)
    assert row["label"] == label
    assert row["strength"] == (3 if label in "ab" else None)
    assert orjson.loads(row["aspects"]) == {"a": {"helpful": rating}}
    assert orjson.loads(row["spans"]) == [{"response": "a", "start": 7, "end": 11, "text": "beta", "kind": "good"}]
    assert row["rationale"] == "because"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a", "good", "1"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=2),
    max_leaves=4,
)
on_the_page = st.fixed_dictionaries(
    {
        "from_name": st.sampled_from(
            ["preference", "strength", "flags", "rationale", "spans_a", "spans_b", "a_helpful", "b_honest", "place_1"]
        )
        | junk,
        "type": st.sampled_from(["choices", "rating", "textarea", "labels"]) | junk,
        "value": st.dictionaries(
            st.sampled_from(["choices", "rating", "text", "labels", "start", "end"]), junk | st.lists(junk, max_size=2)
        )
        | junk,
    }
)
results = st.lists(on_the_page | junk | st.just(choices("preference", "a")), max_size=4) | junk


@given(results)
@example([choices("preference", ["a"])])  # type: ignore[arg-type]
@example([choices("preference", {})])  # type: ignore[arg-type]
@example([choices("preference", "a"), choices("strength", ["1"])])  # type: ignore[arg-type]
@example([choices("preference", "a"), choices("flags", {})])  # type: ignore[arg-type]
@example([choices("preference", "a"), span("a", 0, 5, "alpha", ["good"])])  # type: ignore[arg-type]
def test_no_result_whatever_breaks_the_reader(result: Any) -> None:
    try:
        row = read_result(result, PAIRS[IDS[0]], "ab", CONFIG)
        seen = row["label"]
    except AnswerError as error:
        seen = error.reason
    assert seen in ("a", "b", "tie", "both_bad", "off_schema", "empty_result", "bad_span")


@given(
    st.dictionaries(
        st.sampled_from(["id", "project", "task", "completed_by", "updated_by", "created_at", "updated_at", "lead_time",
                         "was_cancelled"]),
        junk, min_size=1, max_size=3,
    ),
    results,
)  # fmt: skip
def test_no_record_whatever_breaks_a_pull(fields: dict[str, Any], result: Any) -> None:
    broken = record() | fields | {"result": result}
    found = read_answers([broken, record(1)], ledger(), PAIRS, CONFIG, NAMES)
    Annotations.validate(found.annotations)
    assert found.annotations.height + found.rejects.height == 2
    assert IDS[1] in found.annotations["pair_id"].to_list()


ON_FILE = {
    "pair_id": IDS[0], "annotator": "ann", "label": "a", "strength": 2, "updated_at": "2026-01-01T00:00:00Z",
    "annotation_id": "0" * 32, "task_id": "7", "shown": "ab", "cancelled": False, "seconds": 3.5, "rationale": "so",
    "aspects": {"a": {"clear": 5}, "flags": ["needs_expert"]},
    "spans": [{"response": "a", "start": 0, "end": 5, "text": "alpha", "kind": "good"}],
}  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(sorted(ON_FILE)), junk, max_size=3),
    st.dictionaries(st.sampled_from(["response", "start", "end", "text", "kind"]), junk, max_size=2),
    st.dictionaries(st.sampled_from(["a", "b", "flags", "mood"]), junk, max_size=2),
)
@example({"pair_id": [IDS[0]]}, {}, {})
@example({"pair_id": {}}, {}, {})
def test_no_line_whatever_breaks_a_file(fields: dict[str, Any], mark: dict[str, Any], aspects: dict[str, Any]) -> None:
    line = ON_FILE | {"spans": [ON_FILE["spans"][0] | mark], "aspects": aspects} | fields  # type: ignore[index]
    found = from_jsonl([json.dumps(line).encode()], PAIRS)
    Annotations.validate(found.annotations)
    assert found.annotations.height + found.rejects.height == 1
    assert from_jsonl(to_jsonl(found.annotations).splitlines(), PAIRS).annotations.equals(found.annotations)


def test_records_in_are_rows_and_rejects_out_and_the_latest_answer_wins() -> None:
    late = "2026-01-03T00:00:00Z"
    records = [
        record(0, 1),
        record(0, 1, answer("b", "ab"), id=50, updated_at=late),
        record(0, 2),
        record(1, 1, [], was_cancelled=True),
        record(2, 1, []),
    ]
    found = read_answers(records, ledger(), PAIRS, CONFIG, NAMES, controls=[IDS[0]])
    Annotations.validate(found.annotations)
    assert found.annotations.height + found.rejects.height == len(records)
    assert dict(found.rejects["reason"].value_counts().iter_rows()) == {"superseded": 1, "empty_result": 1}
    rows = {(r["pair_id"], r["annotator"]): r for r in found.annotations.iter_rows(named=True)}
    assert rows[IDS[0], "ann"]["label"] == "b"
    assert rows[IDS[0], "ann"]["control"]
    assert rows[IDS[1], "ann"]["cancelled"]
    assert rows[IDS[1], "ann"]["label"] is None
    assert read_answers(records[::-1], ledger(), PAIRS, CONFIG, NAMES, controls=[IDS[0]]).annotations.equals(
        found.annotations
    )
    open_ = waiting(ledger(), found.annotations)
    assert dict(open_.select("pair_id", "answered").iter_rows()) == {IDS[1]: 0, IDS[2]: 0, IDS[3]: 0}


def annotations() -> pl.DataFrame:
    records = [
        record(0, 1, [*answer("a", "ab"), span("a", 6, 10, "beta", "good")]),
        record(0, 2, [choices("preference", "both_bad"), choices("flags", "needs_expert")]),
        record(1, 1, answer("tie", "ab")),
        record(1, 2, [], was_cancelled=True),
        record(2, 1, answer("b", "ab")),
        record(2, 2, answer("b", "ab")),
    ]
    return read_answers(records, ledger(), PAIRS, CONFIG, NAMES).annotations


def queue() -> pl.DataFrame:
    rows = [
        {
            "pair_id": p,
            "rank": n,
            "value": 1.0,
            "overlap": 2,
            "held_out": int(n == 2),
            "purpose": "value",
            "shown": "ab",
        }
        for n, p in enumerate(IDS)
    ]
    return rows_frame(rows, Queue)


def test_votes_leave_out_skips_and_the_audit_and_keep_both_bad_visible() -> None:
    rows = annotations()
    everything = votes_of(rows)
    Votes.validate(everything)
    assert everything.height == 5
    bad = everything.filter(pl.col("aspects").str.contains("both_bad")).row(0, named=True)
    assert (bad["label"], bad["voter"], bad["kind"]) == ("tie", "human:bob", "human")
    assert orjson.loads(bad["aspects"]) == {"both_bad": True, "flags": ["needs_expert"]}
    held = held_out_answers(rows, queue())
    assert held["pair_id"].to_list() == [IDS[2]]
    fused = votes_of(rows, queue())
    assert fused.height == 4
    assert fused.filter(pair_id=IDS[2]).height == 1


def test_answers_to_known_pairs_are_those_outside_the_audit() -> None:
    known = pl.Series(["b", "a", "a", None], dtype=pl.String)
    purpose = pl.Series(["control", "control", "audit", "value"])
    asked = queue().with_columns(known.alias("known_label"), purpose.alias("purpose"))
    found = known_answers(annotations(), asked)
    # Two answers to the first pair, one and a skip to the second; the third is audited, the fourth unknown.
    assert found["pair_id"].to_list() == [IDS[0], IDS[0], IDS[1]]
    assert dict(found.select("pair_id", "known").iter_rows()) == {IDS[0]: "b", IDS[1]: "a"}
    assert sorted(found["answer"]) == ["a", "both_bad", "tie"]
    assert found["at"].null_count() == 0


def test_files_come_back_as_they_went() -> None:
    rows = annotations()
    back = from_jsonl(to_jsonl(rows).splitlines(), PAIRS)
    assert back.rejects.height == 0
    assert back.annotations.equals(rows)


def test_files_are_checked_line_by_line() -> None:
    good = {"pair_id": IDS[0], "annotator": "ann", "label": "a", "updated_at": "2026-01-01T00:00:00Z"}
    swapped = {**good, "annotator": "bob", "shown": "ba", "aspects": {"a": {"clear": 5}}}
    lines: list[Any] = [
        good,
        swapped,
        {**good, "label": "better"},
        {**good, "pair_id": "f" * 32},
        {**good, "annotator": " "},
        {**good, "strength": 7},
        {**good, "spans": [{"response": "a", "start": 0, "end": 4, "text": "zzzz", "kind": "good"}]},
        {**good, "grade": 1},
        {**good, "annotation_id": "mine"},
        {**good, "cancelled": "false"},
        {**good, "label": "tie", "strength": 2},
        {**good, "aspects": {"mood": ["good"]}},
    ]
    data = [orjson.dumps(line) for line in lines] + [b"{", b"", b"[1]"]
    found = from_jsonl(data, PAIRS, name="theirs.jsonl")
    assert found.annotations.height + found.rejects.height == len(data) - 1
    rows = {r["annotator"]: r for r in found.annotations.iter_rows(named=True)}
    assert rows["ann"]["label"] == "a"
    assert rows["bob"]["label"] == mirrored("a")
    assert orjson.loads(rows["bob"]["aspects"]) == {"b": {"clear": 5}}
    assert "theirs.jsonl:3" in found.rejects["record_id"].to_list()
    reasons = dict(found.rejects["reason"].value_counts().iter_rows())
    assert reasons == {"off_schema": 9, "unknown_pair": 1, "unknown_annotator": 1, "bad_span": 1}


@given(
    st.lists(st.tuples(st.sampled_from(IDS[:2]), st.sampled_from(["ann", "bob"]), st.sampled_from(["a", "b"]),
                       st.sampled_from(["0" * 32, "1" * 32, None]), st.integers(1, 2)), max_size=8),
    st.integers(0, 8),
)  # fmt: skip
def test_every_line_of_every_file_is_a_row_or_a_reject(lines: list[Any], cut: int) -> None:
    """Ids that occur twice, answers that come again, and files listed twice: nothing is dropped without a word."""
    data = [
        json.dumps({"pair_id": p, "annotator": who, "label": label, "updated_at": f"2026-01-0{day}T00:00:00Z"}
                   | ({} if i is None else {"annotation_id": i})).encode()
        for p, who, label, i, day in lines
    ]  # fmt: skip
    first, second = from_jsonl(data[:cut], PAIRS, name="one"), from_jsonl(data[cut:], PAIRS, name="two")
    found = merged([first, second, second, from_jsonl([b"{"], PAIRS), from_jsonl([b"{"], PAIRS)])
    assert found.annotations.height + found.rejects.height == len(data) + len(data[cut:]) + 2
    Annotations.validate(found.annotations)
    Rejects.validate(found.rejects)
    assert found.annotations.select("pair_id", "annotator").is_unique().all()
    assert set(found.rejects["reason"]) <= {"superseded", "duplicate_id", "off_schema"}


def test_ten_quick_labels_in_a_terminal() -> None:
    typed = iter(["huh", "a", "x", "s", "q"])
    asked = [(PAIRS[i], "ba") for i in IDS]
    screen = io.StringIO()
    rows = annotate(asked, "ann", lambda question: next(typed), Console(file=screen, width=100))
    assert [r.get("label") for r in rows] == ["b", "both_bad", None]
    assert screen.getvalue().index("gamma delta") < screen.getvalue().index("alpha beta")
    lines = [orjson.dumps(row) for row in rows]
    assert from_jsonl(lines, PAIRS).annotations.height == 3

    def closed(question: str) -> str:
        raise EOFError

    assert annotate(asked, "ann", closed, Console(file=io.StringIO())) == []


def test_a_response_cannot_command_the_terminal() -> None:
    hostile = {**PAIRS[IDS[0]], "response_a": [message("assistant", "[bold]\x1b]0;owned\x07\x1b[2J")]}
    screen = io.StringIO()
    annotate([(hostile, "ab")], "ann", lambda question: "q", Console(file=screen, width=100))
    assert "\x1b" not in screen.getvalue()
    assert "[bold]" in screen.getvalue()


def test_the_ledger_survives_crashes_at_every_step() -> None:
    asked = queue()
    book = announced(empty_ledger(), asked.head(3), 1, "v", 2)
    assert unpushed(asked, book).height == 4
    on_server = [(12, IDS[1]), (11, IDS[0]), (13, IDS[0]), (14, "not ours"), (15, None)]
    found = recovered(on_server, book)
    assert found == {IDS[0]: 11, IDS[1]: 12}
    book = confirmed(book, 1, found)
    assert unpushed(asked, book)["pair_id"].to_list() == IDS[2:]
    book = confirmed(announced(book, asked.filter(pl.col("rank") >= 2), 1, "v", 1), 1, {IDS[2]: 20, IDS[3]: 21})
    assert unpushed(asked, book).height == 0
    assert book.height == 4
    assert overlap_changes(asked, book)["task_id"].to_list() == [20, 21]
    book = without(book, 1, [11, 20, 21])
    assert unpushed(asked, book)["pair_id"].to_list() == [IDS[1]]
    assert recovered([(12, IDS[1])], book) == {}


def test_times_sort_as_texts() -> None:
    moments = [datetime(2026, 1, 1, 23, 59, 59, 1, UTC), "2026-01-01T23:00:00-02:00", "2026-01-02T00:30:00Z"]
    days_and_hours = [time[8:13] for time in sorted(map(utc, moments))]
    assert days_and_hours == ["01T23", "02T00", "02T01"]

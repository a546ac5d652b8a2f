"""The committed table of replies: every one gives the verdict that stands beside it, through every parser of text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.judges.fixtures import judge, pair
from transforms.llm.reasoning import spoken
from transforms.llm.request import Reply
from transforms.text.letters import letter

TABLE: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("verdict_replies.yaml").read_text(encoding="utf-8")
)
LABELS = {"A": "a", "B": "b", "C": "tie"}


def reply(row: dict[str, Any], text: str | None = None) -> Reply:
    said = (row["text"] if text is None else text).replace("{long }", "long " * row.get("repeat", 1))
    return spoken(Reply("0" * 32, "ok", text=said, finish_reason=row.get("finish", "stop"), tokens_out=9))


def rows(kind: str) -> list[Any]:
    return [pytest.param(row, id=f"{n}-{row['reads']}") for n, row in enumerate(TABLE[kind])]


def test_the_table_is_large_and_most_of_it_gives_no_verdict() -> None:
    every = [row for kind in TABLE.values() for row in kind]
    assert len(every) >= 100
    assert sum(row["reads"] == "none" for row in every) >= 40
    assert {row["reads"] for row in every} == {"A", "B", "C", "none"}


@pytest.mark.parametrize("row", rows("json"))
def test_json(row: dict[str, Any]) -> None:
    opinion = judge("json_verdict").read(reply(row), pair(), "ab")
    assert opinion.label == LABELS.get(row["reads"], "invalid"), opinion.detail
    assert (opinion.detail is None) == (row["reads"] != "none")
    assert len(opinion.rationale or "") <= 8000


@pytest.mark.parametrize("row", rows("rubric"))
def test_rubric(row: dict[str, Any]) -> None:
    opinion = judge("rm_r1").read(reply(row), pair(), "ab")
    assert opinion.label == LABELS.get(row["reads"], "invalid"), opinion.detail
    assert (opinion.detail is None) == (row["reads"] != "none")


@pytest.mark.parametrize(
    ("plugin", "row"), [("json_verdict", row) for row in TABLE["json"]] + [("rm_r1", row) for row in TABLE["rubric"]]
)
def test_no_letter_is_preferred(plugin: str, row: dict[str, Any]) -> None:
    """With A and B exchanged in a reply, its verdict is exchanged."""
    text = re.sub(r"(?i)\b[ab]\b", lambda match: match[0].translate(str.maketrans("ABab", "BAba")), row["text"])
    one, other = (judge(plugin).read(reply(row, said), pair(), "ab").label for said in (row["text"], text))
    assert {one, other} in ({"a", "b"}, {"tie"}, {"invalid"})


@given(st.text(alphabet="{}[]\"'\\:,<>/answerABCvdict \n`", max_size=120))
def test_any_text_is_read_or_invalid(text: str) -> None:
    for plugin in ("json_verdict", "rm_r1"):
        assert judge(plugin).read(reply({"text": text}), pair(), "ab").label in ("a", "b", "tie", "invalid")


@given(
    st.sampled_from("ABC"), st.sampled_from(["{}", "[[{}]]", "**{}**", "Response {}", "answer: {}", "({}).", " {} "])
)
def test_a_letter_is_read_in_any_dress_and_two_are_none(name: str, dress: str) -> None:
    assert letter(dress.format(name)) == letter(dress.format(name.lower())) == name
    for between in (" or ", "/", " and ", ", ", ""):
        assert letter(dress.format(f"{name}{between}{name}")) is None

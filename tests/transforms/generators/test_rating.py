"""Ratings and comparisons: a number or letter that stands alone, by log-probabilities or text; never of a thought."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from transforms.generators._rating import read_choice, read_rating, unread
from transforms.llm.reasoning import spoken
from transforms.llm.request import Reply

TABLE = Path(__file__).parents[1] / "judges" / "verdict_replies.yaml"
ROWS: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["choice"]


def said(text: str, **fields: Any) -> Reply:
    return spoken(Reply("0" * 32, "ok", text=text, **fields))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['text'][:20]!r}")
def test_the_table_of_comparisons(row: dict[str, Any]) -> None:
    reply = said(row["text"], finish_reason=row.get("finish", "stop"))
    assert read_choice(reply) == {"A": 1.0, "B": 0.0, "none": None}[row["reads"]]


@pytest.mark.parametrize(
    "text", ["7", " **7** ", "Rating: 7", "7/9", "The rating is 7.", "7\n\nIt is right.", "7 out of 9"]
)
def test_a_number_that_stands_alone_is_a_rating(text: str) -> None:
    assert read_rating(said(text)) == 7.0


@pytest.mark.parametrize("text", ["On a 1-10", "8/10", "Rating: 8/", "10", "0", "seven", "7 or 8", "<think>\n7", ""])
def test_anything_else_is_none(text: str) -> None:
    assert read_rating(said(text)) is None
    assert unread(said(text))


@given(st.dictionaries(st.sampled_from("123456789"), st.floats(0.01, 1.0), min_size=1))
def test_a_rating_is_the_mean_over_the_digits_and_a_thoughts_first_token_is_none(shares: dict[str, float]) -> None:
    total = math.fsum(shares.values())
    row = {digit: math.log(share / total) for digit, share in shares.items()}
    mean = math.fsum(int(digit) * share / total for digit, share in shares.items())
    assert read_rating(said("5", logprobs=[row])) == pytest.approx(mean)
    assert read_rating(said("<think>hm</think>5", logprobs=[row])) == 5.0
    assert read_choice(said("B", logprobs=[{"A": -0.1, "B": -3.0}], reasoning="hm")) == 0.0

"""Votes that came with the data keep their voter, order and meaning."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.tables import Votes
from tests.transforms.sources.support import assert_conserved, read_rows

ROW = {"prompt": "p", "response_a": "x", "response_b": "y", "label": "a"}
HUMAN = {"kind": "human", "labels": "labels", "voters": "names"}
JUDGE = {"kind": "judge", "column": "judges", "order_suffix": True}


def votes_of(
    rows: list[dict[str, Any]], *votes: dict[str, Any], suffix: str = "jsonl", **settings: Any
) -> pl.DataFrame:
    result = read_rows(rows, suffix, votes=list(votes), **settings)
    assert_conserved(result)
    Votes.validate(result.votes)
    return result.votes


def meaning(row: dict[str, Any], votes: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Per (voter, order in which the row's first and second were seen) which text won, worked out from the pair."""
    pair = read_rows([row], columns={"label": None}, votes=[]).pairs.row(0, named=True)
    text = {"a": pair["response_a"][0]["content"], "b": pair["response_b"][0]["content"]}
    first_shown = {order: text[order[0]] for order in ("ab", "ba")} | {"none": ""}
    return {
        (v["voter"], first_shown[v["order"]]): text.get(v["label"], v["label"]) for v in votes.iter_rows(named=True)
    }


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json"])
@pytest.mark.parametrize("texts", [("x", "y"), ("y", "x")])
def test_each_vote_means_the_same_text_whichever_response_is_stored_first(texts: tuple[str, str], suffix: str) -> None:
    row = {
        **{"prompt": "p", "response_a": texts[0], "response_b": texts[1], "label": "tie"},
        **{"labels": ["a", "b", "tie"], "names": ["h1", "h2", "h3"]},
        "judges": [{"judge": "j|ab", "label": "a"}, {"judge": "j|ba", "label": "b"}, {"judge": "k", "label": "b"}],
    }
    votes = votes_of([row], HUMAN, JUDGE, suffix=suffix)
    assert meaning(row, votes) == {
        ("s", ""): "tie",
        ("s/h1", ""): texts[0],
        ("s/h2", ""): texts[1],
        ("s/h3", ""): "tie",
        ("j", texts[0]): texts[0],
        ("j", texts[1]): texts[1],
        ("k", ""): texts[1],
    }
    kinds = votes.group_by("kind").len().sort("kind").rows()
    assert kinds == [("human", 3), ("judge", 3), ("source", 1)]


def test_names_groups_and_numbered_annotators() -> None:
    row = {**ROW, "labels": ["a", "b"], "judges": [{"judge": "gpt/cot|ab", "label": "a"}]}
    votes = votes_of(
        [row],
        {"kind": "human", "labels": "labels", "prefix": "lab-"},
        {**JUDGE, "group_separator": "/", "prefix": "old:"},
    )
    assert set(votes.select("voter", "voter_group", "kind").rows()) == {
        ("s", "s", "source"),
        ("lab-annotator-0", "lab-annotator-0", "human"),
        ("lab-annotator-1", "lab-annotator-1", "human"),
        ("old:gpt/cot", "old:gpt", "judge"),
    }


def test_a_vote_that_cannot_be_read_is_invalid_and_says_why() -> None:
    votes = votes_of(
        [{**ROW, "judges": [{"judge": "j", "label": "banana"}, {"judge": "k", "label": "refused"}]}], JUDGE
    )
    invalid = votes.filter(pl.col("voter") == "j").row(0, named=True)
    assert (invalid["label"], invalid["raw"]) == ("invalid", "banana")
    assert "banana" in invalid["detail"]
    assert votes.filter(pl.col("voter") == "k")["label"].to_list() == ["refused"]


def test_votes_of_another_shape_are_left_out_and_reported_while_the_pair_stays() -> None:
    rows = [
        {**ROW, "labels": ["a"], "names": ["h1", "h2"]},
        {**ROW, "prompt": "q", "labels": "a", "names": ["h1"]},
        {**ROW, "prompt": "r", "labels": None, "names": None},
        {**ROW, "prompt": "s", "labels": [None, "b"], "names": ["h1", "h2"]},
    ]
    result = read_rows(rows, votes=[HUMAN])
    assert_conserved(result)
    assert result.rows_kept == 4
    assert result.rejects.select("record_id", "reason").rows() == [
        ("rows.jsonl:1#votes", "bad_votes"),
        ("rows.jsonl:2#votes", "bad_votes"),
    ]
    assert result.votes.filter(pl.col("kind") == "human")["voter"].to_list() == ["s/h2"]


def test_the_label_map_also_explains_votes_and_numbers_are_refused_without_it() -> None:
    rows = [{**ROW, "label": 1, "labels": [1, 2, 0], "names": ["h1", "h2", "h3"]}]
    votes = votes_of(rows, HUMAN, labels={1: "a", 2: "b", 0: "tie"})
    plain = votes_of([{**ROW, "labels": ["a", "b", "tie"], "names": ["h1", "h2", "h3"]}], HUMAN)
    assert votes.equals(plain)
    with pytest.raises(DataError, match="voter s/h1"):
        read_rows([{**ROW, "labels": [1], "names": ["h1"]}], votes=[HUMAN])


def test_the_same_opinion_twice_is_one_vote_and_two_opinions_are_two() -> None:
    votes = votes_of([ROW, ROW, {**ROW, "label": "b"}])
    assert votes.height == 2
    assert votes["voter"].unique().to_list() == ["s"]
    assert set(votes["label"]) == {"a", "b"}


VERDICTS = st.lists(
    st.fixed_dictionaries(
        {
            "judge": st.sampled_from(["j|ab", "j|ba", "k", "panel/x", "panel/y|ab", 'q"uote']),
            "label": st.sampled_from(["a", "b", "tie", "A", "refused", "banana", "", "first"]),
        }
    ),
    max_size=4,
)


@settings(max_examples=25)
@given(st.lists(VERDICTS, min_size=1, max_size=4), st.booleans(), st.sampled_from([None, "/"]))
def test_whole_columns_and_single_rows_give_the_same_votes(
    verdicts: list[list[dict[str, str]]], suffix: bool, separator: str | None
) -> None:
    rows = [
        {"prompt": f"p{i}", "response_a": "x", "response_b": f"y{i}", "label": "a", "judges": given}
        for i, given in enumerate(verdicts)
    ]
    rows.append({**rows[0], "prompt": "last", "judges": [{"judge": "j", "label": "a"}]})
    judge = {**JUDGE, "order_suffix": suffix, "group_separator": separator}
    by_column, by_row = (
        votes_of(rows, judge, suffix=form, labels={"first": "a"}).sort("vote_id") for form in ("parquet", "jsonl")
    )
    assert by_column.equals(by_row)


def test_one_verdict_without_a_name_costs_its_row_alone() -> None:
    rows = [
        {**ROW, "prompt": "p1", "judges": [{"judge": "j", "label": "a"}]},
        {**ROW, "prompt": "p2", "judges": [{"judge": None, "label": "a"}]},
    ]
    result = read_rows(rows, "parquet", votes=[JUDGE])
    assert result.votes.filter(kind="judge").height == 1
    assert result.rejects["reason"].to_list() == ["bad_votes"]

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


STATED = {"kind": "judge", "column": "judges", "order_suffix": True, "probability": "p", "rationale": "why"}


@settings(max_examples=40, deadline=None)
@given(probability=st.none() | st.floats(0, 1), order=st.sampled_from(["", "|ab", "|ba"]))
def test_a_stated_probability_is_mirrored_with_the_responses(probability: float | None, order: str) -> None:
    def read(first: str, second: str, p: float | None) -> dict[str, Any]:
        side = None if p is None else "tie" if p == 0.5 else "a" if p > 0.5 else "b"
        judges = [{"judge": f"j{order}", "label": side or "tie", "p": p, "why": "because"}]
        row = {"prompt": "p", "response_a": first, "response_b": second, "label": "tie", "judges": judges}
        return votes_of([row], STATED).filter(pl.col("voter") == "j").row(0, named=True)

    one = read("x", "y", probability)
    other = read("y", "x", None if probability is None else 1 - probability)
    assert one["rationale"] == other["rationale"] == "because"
    assert one["label"] == other["label"]
    assert (one["p_a"] is None) == (probability is None)
    if probability is not None:
        assert one["p_a"] == pytest.approx(other["p_a"], abs=1e-9)
        # It is the first response's, "x", wherever that is stored.
        pair = read_rows([{**ROW, "label": "tie"}]).pairs.row(0, named=True)
        stored_first = pair["response_a"][0]["content"] == "x"
        assert one["p_a"] == pytest.approx(probability if stored_first else 1 - probability, abs=1e-9)


def test_a_probability_without_a_label_votes_for_the_more_probable_side() -> None:
    row = {**ROW, "judges": [{"judge": n, "label": None, "p": p, "why": None} for n, p in (("j", 0.9), ("k", 0.5))]}
    labelled = {
        **ROW,
        "judges": [{"judge": n, "label": x, "p": p, "why": None} for n, x, p in (("j", "a", 0.9), ("k", "tie", 0.5))],
    }
    assert votes_of([row], STATED).equals(votes_of([labelled], STATED))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ({"label": "a", "p": "high", "why": None}, ("p of voter j", "'high'", "null")),
        ({"label": "a", "p": True, "why": None}, ("p of voter j", "True")),
        ({"label": "b", "p": 0.9, "why": None}, ("voter j says b", "1 - p")),
        ({"label": "a", "p": 0.9, "why": 3}, ("why of voter j is int",)),
        ({"label": "a", "why": None}, ("no p",)),
        ({"label": "a", "p": 0.9}, ("no why",)),
    ],
)
def test_an_unreadable_probability_or_rationale_is_reported_and_the_pair_stays(
    verdict: dict[str, Any], words: tuple[str, ...]
) -> None:
    result = read_rows([{**ROW, "judges": [{"judge": "j", **verdict}]}], votes=[STATED])
    assert_conserved(result)
    assert result.rows_kept == 1
    assert result.votes["kind"].to_list() == ["source"]
    (reject,) = result.rejects.select("record_id", "reason", "detail").rows()
    assert reject[:2] == ("rows.jsonl:1#votes", "bad_votes")
    assert all(word in reject[2] for word in ("Field judges", *words))


@pytest.mark.parametrize(("label", "p"), [("A", 0.1), ("second", 0.9), ("1", 0.4)])
def test_a_probability_on_the_other_side_of_a_label_that_the_recipe_reads_is_reported(label: str, p: float) -> None:
    labels = {"A": "a", "second": "b", "1": "a"}
    row = {**ROW, "label": "A", "judges": [{"judge": "j", "label": label, "p": p, "why": None}]}
    result = read_rows([row], votes=[STATED], labels=labels)
    assert result.rejects["reason"].to_list() == ["bad_votes"]
    assert f"voter j says {label}" in result.rejects["detail"].item()
    assert result.votes.filter(kind="judge").height == 0
    row["judges"][0]["p"] = 1 - p
    assert read_rows([row], votes=[STATED], labels=labels).votes.filter(kind="judge")["p_a"].len() == 1


@pytest.mark.parametrize("probability", [87, -0.2, 1.0001])
def test_a_number_that_is_no_probability_stops_the_source(probability: float) -> None:
    verdict = {"judge": "j", "label": "a", "p": probability, "why": None}
    with pytest.raises(DataError, match=r"rows.jsonl:1, field judges, voter j: p is .* divide percentages by 100"):
        read_rows([{**ROW, "judges": [verdict]}], votes=[STATED])


def test_two_probabilities_are_two_opinions() -> None:
    verdicts = [{"judge": "j", "label": "a", "p": p, "why": None} for p in (0.6, 0.9, 0.9)]
    votes = votes_of([{**ROW, "judges": verdicts}], STATED).filter(pl.col("voter") == "j")
    assert len(votes) == 2

"""Duplicates: one row an id, every other row a reject, and the result a function of the set of rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from schemas.messages import message
from schemas.pairs import make_pair
from schemas.tables import Pairs, Prompts, Rejects, rows_frame
from tests.transforms.sources.support import join, read_rows
from transforms.sources.dedupe import CONFLICT_TAG, dedupe_pairs, dedupe_prompts, dedupe_votes


def pair(prompt: str, origin: str, row: int, label: str | None, strength: float | None = None) -> dict[str, Any]:
    built, _ = make_pair(
        [message("user", prompt)],
        [message("assistant", "x")],
        [message("assistant", "y")],
        origin=origin,
        origin_ref=f"f.jsonl:{row}",
        source_strength=strength,
    )
    return {**built, "source_label": label}


ROWS = st.lists(
    st.tuples(
        st.sampled_from("pqr"),
        st.sampled_from(["one", "two", "three"]),
        st.integers(1, 30),
        st.sampled_from(["a", "b", "tie", None]),
        st.sampled_from([None, 1.0, 2.0]),
    ),
    max_size=14,
)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, random=st.randoms(use_true_random=False))
def test_dedupe_conserves_rows_and_ignores_their_order(rows: list[Any], random: Any) -> None:
    built = [pair(*row) for row in rows]
    shuffled = random.sample(built, len(built))
    one, two = (dedupe_pairs(rows_frame(r, Pairs)) for r in (built, shuffled))
    assert_frame_equal(one.rows, two.rows)
    assert_frame_equal(one.rejects, two.rejects)
    Pairs.validate(one.rows)
    Rejects.validate(one.rejects)
    assert one.rows.height + one.rejects.height == len(rows)
    assert set(one.rejects["reason"]) <= {"duplicate"}
    assert one.rows["pair_id"].to_list() == sorted({b["pair_id"] for b in built})
    for kept in one.rows.iter_rows(named=True):
        same = [b for b in built if b["pair_id"] == kept["pair_id"]]
        first = min((b["origin"], int(b["origin_ref"].split(":")[1])) for b in same)
        assert (kept["origin"], int(kept["origin_ref"].split(":")[1])) == first
        counts = Counter(label for _, label in {(b["origin"], b["source_label"]) for b in same if b["source_label"]})
        most = [label for label, n in counts.items() if n == max(counts.values())]
        assert kept["source_label"] == (most[0] if len(most) == 1 else None)
        assert (kept["tags"] == [CONFLICT_TAG]) == (len(counts) > 1)


def test_the_strength_belongs_to_the_label() -> None:
    rows = [
        pair("p", "one", 1, "a", 3.0),
        pair("p", "two", 1, "b", 1.5),
        pair("p", "two", 2, "b"),
        pair("p", "x", 1, "b"),
    ]
    kept = dedupe_pairs(rows_frame(rows, Pairs)).rows.row(0, named=True)
    assert (kept["origin"], kept["source_label"], kept["source_strength"]) == ("one", "b", 1.5)


def test_votes_of_all_rows_stay_and_conflicting_sources_are_both_heard() -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y"}
    both = join([read_rows([{**row, "label": "a"}], name="one"), read_rows([{**row, "label": "b"}], "csv", name="two")])
    kept = dedupe_pairs(both.pairs)
    votes = dedupe_votes(both.votes)
    assert kept.rows["source_label"].to_list() == [None]
    assert kept.rows["tags"].to_list() == [[CONFLICT_TAG]]
    assert set(votes.select("voter", "kind").rows()) == {("one", "source"), ("two", "source")}
    assert votes["label"].n_unique() == 2
    assert kept.rejects["record_id"].to_list() == ["rows.csv:1"]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from(["chat", None]), st.sampled_from("xy")), max_size=9
    ),
    random=st.randoms(use_true_random=False),
)
def test_duplicate_prompts_are_rejected_each(rows: list[tuple[str, str | None, str]], random: Any) -> None:
    written = [{"prompt": p, "kind": kind, "reference": r} for p, kind, r in rows] or [{"prompt": "p"}]
    one, two = (
        dedupe_prompts(read_rows(r, kind="prompts").prompts) for r in (written, random.sample(written, len(written)))
    )
    assert_frame_equal(one.rows, two.rows)
    assert_frame_equal(one.rejects, two.rejects)
    Prompts.validate(one.rows)
    Rejects.validate(one.rejects)
    assert one.rows.height == len({w["prompt"] for w in written})
    assert one.rows.height + one.rejects.height == len(written)


def test_votes_met_twice_are_one() -> None:
    votes = read_rows([{"prompt": "p", "chosen": "x", "rejected": "y"}]).votes
    assert dedupe_votes(pl.concat([votes, votes])).equals(votes)

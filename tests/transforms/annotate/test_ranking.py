"""Rankings as preferences: transitive, complete, and refused where the page was not followed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import message
from schemas.pairs import make_pair
from tests.transforms.annotate.replay import choices, queue_of
from transforms.annotate.answers import read_answers
from transforms.annotate.checked import AnswerError
from transforms.annotate.display import page_text
from transforms.annotate.page import PageConfig
from transforms.annotate.ranking import (
    new_rankings,
    preferences,
    ranked_queue,
    ranking_tasks,
    rankings_by_id,
    read_places,
    unasked,
)
from transforms.annotate.tasks import announced, confirmed, empty_ledger


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_places_come_back_and_order_every_two_responses(places: list[int]) -> None:
    n = len(places)
    places = [min(place, n) for place in places]
    result = [choices(f"place_{i}", str(place)) for i, place in enumerate(places, start=1)]
    assert read_places(result[::-1], n) == places
    found = preferences(places)
    assert len(found) == n * (n - 1) // 2
    for (i, j), label in found.items():
        assert label == {-1: "a", 0: "tie", 1: "b"}[(places[i] > places[j]) - (places[i] < places[j])]


@pytest.mark.parametrize(
    "result",
    [
        [],
        "1, 2",
        [choices("place_1", "1")],
        [choices("place_1", "1"), choices("place_2", "3")],
        [choices("place_1", "1"), choices("place_2", "2"), choices("place_2", "1")],
        [choices("place_1", "1"), choices("preference", "a")],
        [choices("place_1", "1"), 7],
    ],
)
def test_what_is_no_ranking_is_refused(result: Any) -> None:
    with pytest.raises(AnswerError):
        read_places(result, 2)


def pairs_among(n_responses: list[int]) -> dict[str, dict[str, Any]]:
    """Every pair among n responses to a prompt each."""
    out = {}
    for prompt, n in enumerate(n_responses):
        question = [message("user", f"question {prompt}")]
        texts = [[message("assistant", f"answer {prompt} {i}")] for i in range(n)]
        for one, other in itertools.combinations(texts, 2):
            pair, _ = make_pair(question, one, other, origin="test")
            out[pair["pair_id"]] = pair
    return out


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 7), min_size=1, max_size=4), st.integers(3, 5), st.integers(0, 3))
def test_groups_hold_each_pair_once_show_what_they_hold_and_are_read_back(
    sizes: list[int], most: int, seed: int
) -> None:
    pairs = pairs_among(sizes)
    rankings = new_rankings(pairs, most, seed)
    assert rankings["pair_id"].is_unique().all()
    queue = queue_of(pairs, audit_share=0, control_share=0)
    single, groups = ranked_queue(queue, rankings)
    assert single.height + rankings.height == queue.height
    assert set(groups["pair_id"]) == set(rankings["group_id"])
    assert groups.schema == queue.schema
    tasks = ranking_tasks(lambda ids: {i: pairs[i] for i in ids}, rankings)(groups)
    by_id = rankings_by_id(rankings)
    for group_id, task in zip(groups["pair_id"], tasks, strict=True):
        group = by_id[group_id]
        assert 3 <= group.n <= most
        texts = [task.data[f"response_{i}"] for i in range(1, group.n + 1)]
        assert len(set(texts)) == group.n
        by_text = sorted(texts)
        result = [choices(f"place_{i}", str(by_text.index(text) + 1)) for i, text in enumerate(texts, start=1)]
        base = {"annotation_id": "0" * 32, "cancelled": False, "seconds": 6.0}
        for row in group.rows(base, result):
            a, b = (page_text(pairs[row["pair_id"]][f"response_{side}"]) for side in "ab")
            assert row["label"] == ("a" if a < b else "b")
    assert set(unasked(queue, empty_ledger(), rankings)) == set(single["pair_id"])
    more = new_rankings({p: pairs[p] for p in unasked(queue, empty_ledger(), rankings)}, most, seed)
    assert not set(more["pair_id"]) & set(rankings["pair_id"])


def test_a_ranking_loses_no_pair_that_the_recipe_makes_no_more() -> None:
    pairs = pairs_among([3])
    rankings = new_rankings(pairs, 3, seed=0)
    (group,) = rankings["group_id"].unique()
    queue = queue_of({group: {"prompt_id": "0" * 32}}, audit_share=0, control_share=0)
    ledger = confirmed(announced(empty_ledger(), queue, 1, "v", 1), 1, {group: 5})
    record = {
        "id": 1, "project": 1, "task": 5, "completed_by": 1, "updated_by": 1, "lead_time": 9,
        "updated_at": "2026-01-01T00:00:00Z", "result": [choices(f"place_{i}", str(i)) for i in (1, 2, 3)],
    }  # fmt: skip
    gone, *rest = sorted(pairs)
    found = read_answers(
        [record], ledger, {p: pairs[p] for p in rest}, PageConfig(), {1: "ann"}, rankings=rankings_by_id(rankings)
    )
    assert sorted(found.annotations["pair_id"]) == rest
    assert found.rejects["reason"].to_list() == ["unknown_pair"]
    assert gone in found.rejects["payload"][0]

"""Rankings as preferences: transitive, complete, and refused where the page was not followed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.annotate.replay import choices
from transforms.annotate.answers import AnswerError
from transforms.annotate.ranking import preferences, read_places


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

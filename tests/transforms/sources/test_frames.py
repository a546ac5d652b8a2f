"""The fast frame of row dicts is the tables' own."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from schemas.messages import message
from schemas.pairs import make_pair
from schemas.tables import Pairs, rows_frame
from transforms.sources.frames import pairs_frame

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
MEDIA = st.none() | st.lists(
    st.fixed_dictionaries({"kind": TEXT, "uri": TEXT, "sha256": st.none(), "mime": st.none() | TEXT}),
    min_size=1,
    max_size=2,
)
TURNS = st.lists(
    st.builds(message, st.sampled_from(["user", "assistant"]), TEXT, st.none() | TEXT, st.none() | TEXT, MEDIA),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(TURNS, TURNS, TURNS, st.none() | st.floats(0.1, 9), st.none() | st.lists(TEXT)).filter(
            lambda t: t[1] != t[2]
        ),
        max_size=5,
    )
)
def test_it_equals_the_frame_of_nested_dicts(rows: list[Any]) -> None:
    built = [
        make_pair(prompt, first, second, origin="o", source_strength=strength, tags=tags)[0]
        for prompt, first, second, strength, tags in rows
    ]
    assert_frame_equal(pairs_frame(built), rows_frame(built, Pairs))

"""What routers know of texts: laws of likeness, and families that follow it."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import hash_fields
from schemas.messages import message
from transforms.routers.queue.features import prompt_families, response_features

WORDS = [hash_fields(str(i))[:8] for i in range(2000)]


def features(pairs: list[tuple[str, str]]) -> pl.DataFrame:
    rows = [
        {
            "pair_id": hash_fields(str(i)),
            "response_a": [message("assistant", a)],
            "response_b": [message("assistant", b)],
        }
        for i, (a, b) in enumerate(pairs)
    ]
    return response_features(pl.DataFrame(rows))


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_bounded_and_one_for_equals(first: str, second: str) -> None:
    there, back, same = features([(first, second), (second, first), (first, first)]).iter_rows(named=True)
    for name in ("similarity", "length_difference"):
        assert there[name] == pytest.approx(back[name])
    assert 0 <= there["similarity"] <= 1
    assert (same["similarity"], same["length_difference"]) == (1.0, 0.0)


def test_shared_words_and_lengths_are_what_is_counted() -> None:
    found = features([("One two, three!", "three TWO four"), ("x y", "z"), ("", "word"), ("a" * 99, "b" * 9)])
    assert found["similarity"].to_list() == pytest.approx([2 / 3, 0, 0, 0])
    assert found["length_difference"].exp().to_list() == pytest.approx([16 / 15, 2, 5, 10])


def prompts(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"prompt_id": [hash_fields(t) for t in texts], "prompt": [[message("user", t)] for t in texts]})


def test_families_hold_equals_always_the_like_often_and_the_unlike_hardly_ever() -> None:
    texts = [" ".join(WORDS[40 * i : 40 * i + 40]) for i in range(50)]
    alike = [text + f" {WORDS[-i - 1]}" for i, text in enumerate(texts)]  # 38 of 39 shingles are the same
    found = prompt_families(prompts([*texts, *alike, *(text.upper() for text in texts)]))
    first, second, third = found[:50], found[50:100], found[100:]
    assert first.n_unique() == 50
    assert first.equals(third)
    assert (first == second).mean() > 0.8  # type: ignore[operator]
    assert prompt_families(prompts([])).is_empty()
    assert prompt_families(prompts(texts[::-1])).reverse().equals(first)  # neighbours do not matter

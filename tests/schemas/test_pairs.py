"""A pair has one id whichever response comes first, and its position says nothing of the winner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import message, messages_id
from schemas.pairs import make_pair, mirrored

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
LABEL = st.sampled_from(["a", "b", "tie", None])


def said(role: str, text: str) -> list[dict[str, object]]:
    return [dict(message(role, text))]  # type: ignore[arg-type]


@given(prompt=TEXT, one=TEXT, two=TEXT, label=LABEL, context=st.none() | TEXT)
def test_exchanging_the_responses_changes_nothing(
    prompt: str, one: str, two: str, label: str | None, context: str | None
) -> None:
    asked, first, second = said("user", prompt), said("assistant", one), said("assistant", two)
    if one == two:
        with pytest.raises(ValueError, match="identical"):
            make_pair(asked, first, second)  # type: ignore[arg-type]
        return
    row, swapped = make_pair(
        asked,
        first,
        second,
        first_label=label,
        model_first="m",
        model_second="n",
        context=context,
        origin="o",  # type: ignore[arg-type]
    )
    other, exchanged = make_pair(
        asked,
        second,
        first,
        first_label=label and mirrored(label),
        model_first="n",
        model_second="m",
        context=context,
        origin="o",  # type: ignore[arg-type]
    )
    assert row == other
    assert swapped != exchanged
    assert messages_id(row["response_a"]) < messages_id(row["response_b"])
    assert row["prompt_id"] == messages_id(asked)  # type: ignore[arg-type]
    texts = {"a": row["response_a"][0]["content"], "b": row["response_b"][0]["content"]}
    if label in ("a", "b"):
        assert texts[row["source_label"]] == {"a": one, "b": two}[label]
    else:
        assert row["source_label"] == label
    assert {texts["a"]: row["model_a"], texts["b"]: row["model_b"]} == {one: "m", two: "n"}


@given(prompts=st.tuples(TEXT, TEXT), contexts=st.tuples(st.none() | TEXT, st.none() | TEXT))
def test_prompt_and_context_are_part_of_the_id(
    prompts: tuple[str, str], contexts: tuple[str | None, str | None]
) -> None:
    ids = [
        make_pair(said("user", p), said("assistant", "x"), said("assistant", "y"), context=c)[0]["pair_id"]  # type: ignore[arg-type]
        for p, c in zip(prompts, contexts, strict=True)
    ]
    same = prompts[0] == prompts[1] and (contexts[0] or "") == (contexts[1] or "")
    assert (ids[0] == ids[1]) == same


@given(label=st.sampled_from(["a", "b", "tie", "ab", "ba", "none", "invalid", "refused", "error"]))
def test_mirroring_twice_is_nothing(label: str) -> None:
    assert mirrored(mirrored(label)) == label
    assert (mirrored(label) != label) == (label in {"a", "b", "ab", "ba"})


def test_position_is_a_fair_coin_for_a_fixed_winner() -> None:
    n = 4000
    a_wins = 0
    for i in range(n):
        other, _ = make_pair(said("user", "q"), said("assistant", f"w{i}"), said("assistant", f"l{i}"), first_label="a")  # type: ignore[arg-type]
        a_wins += other["source_label"] == "a"
    assert abs(a_wins / n - 0.5) < 5 * (0.25 / n) ** 0.5

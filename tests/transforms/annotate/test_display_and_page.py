"""What annotators see: nothing hidden or executed, offsets that come back, configs that are linted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import RecipeError
from schemas.messages import message
from transforms.annotate.display import dialogue, page_text, shown_text, stored_span
from transforms.annotate.page import PageConfig, lint, page_version, pairwise_page, ranking_page
from transforms.annotate.tasks import ranking_data, task_data

texts = st.text(st.sampled_from("ab \n\r\té😀\u202e\u2066\u200f\x00\x1b\x7f\ufeff<&"), max_size=40)


@given(texts, st.data())
def test_spans_on_the_page_are_spans_of_the_stored_text(text: str, data: st.DataObject) -> None:
    page = shown_text(text)
    assert shown_text(page) == page
    if not page:
        return
    start = data.draw(st.integers(0, len(page) - 1))
    end = data.draw(st.integers(start + 1, len(page)))
    first, last = stored_span(text, start, end)
    assert shown_text(text[first:last]) == page[start:end]
    assert shown_text(text[:first]) == page[:start]
    assert text[first] == page[start]
    assert text[last - 1] == page[end - 1]


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 1), (0, 4)])
def test_impossible_spans_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="span"):
        stored_span("a\u202ebc", start, end)


def test_text_is_shown_as_it_is_apart_from_controls() -> None:
    code = "\tif x:\r\n    y = '<b>&amp;</b>'  # 漢字 😀\n"
    assert shown_text(code) == code
    assert shown_text("safe\u202egnp.exe\u2066\x00\x1b[31m") == "safegnp.exe[31m"


def test_tool_calls_and_attachments_are_on_the_page_by_address() -> None:
    image = {"kind": "image", "uri": "https://example.com/cat.png", "sha256": None, "mime": None}
    turns = [message("user", "what is this?", media=[image]), message("assistant", "", tool_calls='[{"name": "look"}]')]
    shown = dialogue(turns)
    assert "https://example.com/cat.png" in shown[0]["content"]
    assert '[tool calls] [{"name": "look"}]' in page_text(turns[1:])
    assert [turn["role"] for turn in shown] == ["user", "assistant"]


def page_fields(xml: str) -> set[str]:
    """The task fields (`$name`) that a page shows."""
    return set(re.findall(r'"\$(\w+)"', xml))


def test_a_task_is_blind_and_complete() -> None:
    pair = {
        "pair_id": "0" * 32,
        "prompt": [message("user", "hi")],
        "context": None,
        "response_a": [message("assistant", "first")],
        "response_b": [message("assistant", "second")],
        "model_a": "secret-model",
        "model_b": "other-model",
        "source_label": "a",
    }
    straight, swapped = task_data(pair, "ab"), task_data(pair, "ba")
    assert (straight["response_a"], straight["response_b"]) == ("first", "second")
    assert (swapped["response_a"], swapped["response_b"]) == ("second", "first")
    assert set(straight) == page_fields(pairwise_page(PageConfig(), context=False)) | {"pair_id"}
    assert "secret" not in str(straight)
    with_context = task_data({**pair, "context": "be brief"}, "ab")
    assert set(with_context) == page_fields(pairwise_page(PageConfig(), context=True)) | {"pair_id"}
    ranking = ranking_data("1" * 32, pair["prompt"], None, ["x", "y", "z"])
    assert set(ranking) == page_fields(ranking_page(3, context=False)) | {"pair_id"}


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_rendered_pages_are_clean_and_versioned(context: bool, n: int) -> None:
    pages = [pairwise_page(PageConfig(), context=context), ranking_page(n, context=context)]
    assert [lint(page) for page in pages] == [[], []]
    assert len({page_version(page) for page in pages}) == 2
    other = pairwise_page(PageConfig(aspects=["correct"], span_kinds=[]), context=context)
    assert page_version(other) != page_version(pages[0])


def test_the_context_stands_open_above_the_responses() -> None:
    page = pairwise_page(PageConfig(), context=True)
    assert page.index("$context") < page.index("$response_a")
    assert "Collapse" not in page


@pytest.mark.parametrize(
    ("wrong", "right", "problem"),
    [
        ("<Rating ", "<Ratings ", "tag Ratings"),
        ('<Text name="response_a"', '<Markdown name="response_a"', "tag Markdown"),
        ('whenTagName="preference"', 'whenTagName="preferance"', "waits for 'preferance'"),
        ('whenChoiceValue="A,B"', 'whenChoiceValue="A,C"', "the choice 'C'"),
        ('toName="response_b"', 'toName="response_c"', "refers to 'response_c'"),
        ('name="strength"', 'name="preference"', "used twice"),
        ('value="Tie"', 'value="$tie"', "shows the task field $tie"),
        ('hotkey="b"', 'hotkey="a"', "hotkey a is used twice"),
        ("</View>", "</Vieww>", "not XML"),
        ('value="$response_a"', 'value="response_a"', "shows no task field"),
        ('<Choices name="flags"', "<Choices ", "a Choices has no name"),
    ],
)
def test_lint_finds_what_the_server_accepts(wrong: str, right: str, problem: str) -> None:
    page = pairwise_page(PageConfig(), context=True)
    assert wrong in page
    assert any(problem in found for found in lint(page.replace(wrong, right, 1)))


def test_names_that_would_break_the_page_are_refused() -> None:
    for names in (['"><Script'], ["twice", "twice"], ["with space"], ["ümlaut"]):
        with pytest.raises(ValidationError):
            PageConfig(aspects=names)
    with pytest.raises(RecipeError, match="2 to 9"):
        ranking_page(10, context=False)

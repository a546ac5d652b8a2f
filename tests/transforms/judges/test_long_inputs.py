"""Long inputs: counted, refused or windowed before they are sent, by every judge."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.transforms.judges.fixtures import judge, pair, prompt_text, said, votes_of
from transforms.judges._length import head_and_tail, upper_bound, windowed
from transforms.llm.request import Reply, Request
from transforms.plugins.registry import names


def counting(request: Request, limit: int = 400) -> Reply:
    """A server with a tokenizer of one token a word."""
    if request.path == "tokenize":
        return said(request, str(len(request.body["content"].split())))
    words = sum(len(message["content"].split()) for message in request.body["messages"])
    assert words <= limit, "sent although it is too long"
    return said(request, "A", logprobs=[{"A": -0.1}])


def test_a_short_input_is_not_counted() -> None:
    _, asked = votes_of(judge("logprob", context_tokens=4000), [pair()], counting)
    assert [request.path for request in asked] == ["chat/completions"] * 2


def test_an_input_too_long_is_refused_before_it_is_sent() -> None:
    row = pair("word " * 1000, "short")
    votes, asked = votes_of(judge("logprob", context_tokens=400), [row], counting)
    assert {request.path for request in asked} == {"tokenize"}
    assert {vote["label"] for vote in votes} == {"error"}
    assert all("too long" in vote["detail"] for vote in votes)
    assert len({vote["vote_id"] for vote in votes}) == 2


def test_an_input_too_long_is_windowed_if_the_policy_says_so() -> None:
    row = pair("start " + "word " * 1000 + "finish", "other " * 900)
    votes, asked = votes_of(judge("logprob", context_tokens=400, too_long="window"), [row], counting)
    sent = [prompt_text(request) for request in asked if request.path != "tokenize"]
    assert len(sent) == 2
    assert all("start" in text and "finish" in text and "characters left out" in text for text in sent)
    assert "error" not in {vote["label"] for vote in votes}


EXEMPLAR = {"prompt": "P?", "response_a": "yes", "response_b": "no", "label": "b"}
NUGGETS = '{"nuggets": ["Paris."]}'
LONG = "start " + "word " * 1000 + "finish"
LONG_PAIRS = {
    "response": pair(LONG, "other " * 900, meta=NUGGETS),
    "prompt": pair("one", "two", prompt=LONG, meta=NUGGETS),
    "documents": pair("one", "two", context=LONG, context_kind="documents"),
}


@pytest.mark.parametrize("long", LONG_PAIRS)
@pytest.mark.parametrize("plugin", [name for name in names("judges") if name != "context"])
def test_every_judge_refuses_or_windows_what_is_too_long(plugin: str, long: str) -> None:
    row = LONG_PAIRS[long]
    refusing = judge(plugin, context_tokens=500, max_tokens=1)
    votes, asked = votes_of(refusing, [row], counting)
    assert {vote["label"] for vote in votes} == {"error"}
    assert all("too long" in vote["detail"] for vote in votes)
    assert {request.path for request in asked} <= {"tokenize"}
    windowing = judge(plugin, context_tokens=500, max_tokens=1, too_long="window")
    votes, asked = votes_of(windowing, [row], partial(counting, limit=500))
    assert votes
    sent = [prompt_text(request) for request in asked if request.path != "tokenize"]
    assert sent
    assert any("start" in text and "finish" in text and "characters left out" in text for text in sent)


@pytest.mark.parametrize("plugin", names("judges"))
def test_the_engines_context_is_obeyed_where_the_recipe_sets_none(plugin: str) -> None:
    row = pair(LONG, f"{LONG} twice", context=LONG, context_kind="documents", meta=NUGGETS)
    made = judge(plugin)
    made.bind(made.models, {"llm": 400, "another": 10**6})
    votes, asked = votes_of(made, [row], counting)
    assert {vote["label"] for vote in votes} == {"error"}
    assert {request.path for request in asked} == {"tokenize"}
    made.bind(made.models, {"llm": None})
    assert made.room is None


def test_a_reply_that_may_be_longer_than_the_engines_context_leaves_room_for_the_question() -> None:
    made = judge("rm_r1", max_tokens=4096)
    made.bind(made.models, {"llm": 4096})
    assert made.room == 2048


@pytest.mark.parametrize(
    "refused", [{"orders": "ab"}, {"samples": 3}, {"exemplars": [EXEMPLAR]}], ids=["orders", "samples", "exemplars"]
)
def test_nuggets_refuses_what_it_would_not_obey(refused: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(refused))}: this judge"):
        judge("nuggets", **refused)


def test_a_server_without_tokenizer_is_estimated() -> None:
    def answer(request: Request) -> Reply:
        if request.path == "tokenize":
            return Reply(request.request_id, "error", error="404: not found")
        return said(request, "A", logprobs=[{"A": -0.1}])

    votes, _ = votes_of(judge("logprob", context_tokens=2000), [pair("x" * 3000, "y")], answer)
    assert "error" not in {vote["label"] for vote in votes}
    votes, _ = votes_of(judge("logprob", context_tokens=2000), [pair("x" * 9000, "y")], answer)
    assert {vote["label"] for vote in votes} == {"error"}


@given(st.text(max_size=500), st.integers(60, 400))
def test_a_window_keeps_head_and_tail_within_its_length(text: str, length: int) -> None:
    cut = head_and_tail(text, length)
    assert len(cut) <= max(length, len(text) if len(text) <= length else length)
    if len(text) > length:
        assert cut[: (length - 45) * 2 // 3 // 2] == text[: (length - 45) * 2 // 3 // 2]


def test_windowing_cuts_the_longest_texts_first_and_ends() -> None:
    row = pair("x" * 5000, "y" * 300)
    longest = "response_a" if row["response_a"][0]["content"][0] == "x" else "response_b"
    other = "response_b" if longest == "response_a" else "response_a"
    cut = windowed(row, 0.5)
    assert cut is not None
    assert cut[other] == row[other]
    assert 2000 < len(cut[longest][0]["content"]) < 2600
    step: Any = row
    for _ in range(50):
        step = windowed(step, 0.5)
        if step is None:
            break
    assert step is None


def test_the_bound_is_never_below_one_token_a_byte() -> None:
    assert upper_bound([{"role": "user", "content": "é" * 10}]) >= 20

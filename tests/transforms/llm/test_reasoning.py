"""What a model thought never reaches what it says, wherever it stands; a text without marks is untouched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.stub_llm import StubServer
from transforms.llm.client import Client
from transforms.llm.reasoning import part, silence, spoken
from transforms.llm.request import Reply, Request
from transforms.llm.window import Caller
from transforms.storage.memo import Memo

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<Think>", "</THINK>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]
MARKS = st.sampled_from(PAIRS)
PLAIN = st.text(st.characters(exclude_characters="<[◁", exclude_categories=["Cs"]), max_size=30)
# Marks whole and broken, quoted and not, with anything between them.
PIECES = st.lists(PLAIN | st.sampled_from([mark for pair in PAIRS for mark in pair]) | st.sampled_from("<>[]/`\"'"))


@given(MARKS, PLAIN, PLAIN, PLAIN)
def test_what_stands_between_marks_is_thought(marks: tuple[str, str], before: str, inside: str, after: str) -> None:
    begin, end = marks
    before, after = before.strip("`'\""), after.strip("`'\"")
    parted = part(f"{before}{begin} T{inside} {end}{after}")
    assert parted.text == "\n\n".join(text.strip() for text in (before, after) if text.strip())
    assert parted.reasoning == f"T{inside}".strip()
    assert not parted.is_cut


@given(MARKS, PLAIN, PLAIN)
def test_before_a_closing_mark_alone_all_is_thought(marks: tuple[str, str], before: str, after: str) -> None:
    before, after = before.strip("`'\""), after.strip("`'\"")
    parted = part(f"{before}{marks[1]}{after}")
    assert (parted.text, parted.reasoning) == (after.strip(), before.strip())


@given(MARKS, PLAIN, PLAIN)
def test_a_thought_without_an_end_leaves_nothing_said(marks: tuple[str, str], before: str, inside: str) -> None:
    parted = part(f"{before}{marks[0]}{inside}")
    if not before.endswith(("`", "'", '"')):
        assert parted.is_cut
        assert parted.text == ""


@given(st.text(st.characters(exclude_characters="<[◁", exclude_categories=["Cs"])))
def test_a_text_without_marks_is_untouched(text: str) -> None:
    assert part(text).text == text
    assert part(text).reasoning is None


@given(PIECES)
def test_telling_apart_again_changes_nothing(pieces: list[str]) -> None:
    once = part("".join(pieces))
    again = part(once.text)
    assert again.text == once.text
    assert again.reasoning is None


@pytest.mark.parametrize(
    "text", ["Qwen ends its thoughts with `</think>`.", 'Write "<think>" first.', "a < b, x[0], <b>"]
)
def test_words_about_marks_are_none(text: str) -> None:
    assert part(text).text == text


def test_thoughts_of_both_kinds_are_kept_together() -> None:
    reply = spoken(Reply("0" * 32, "ok", text="<think>second</think>said", reasoning="first"))
    assert (reply.text, reply.reasoning) == ("said", "first\n\nsecond")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply("", "ok", text="said"), None),
        (Reply("", "ok", reasoning="hm", finish_reason="length", tokens_out=7), "all 7 tokens went into reasoning"),
        (Reply("", "ok", reasoning="hm", finish_reason="stop"), "2 characters of reasoning and no answer"),
        (Reply("", "ok", finish_reason="length", tokens_out=7), "cut off after 7 tokens"),
        (Reply("", "ok", finish_reason="stop"), "empty (finish_reason stop)"),
    ],
)
def test_a_reply_that_says_nothing_is_told_with_its_reason(reply: Reply, words: str | None) -> None:
    said = silence(reply)
    assert said is None if words is None else words in (said or "")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>a plan</think>the answer"},
        {"content": "a plan</think>the answer"},
        {"content": "the answer", "reasoning": "a plan"},
        {"content": "the answer", "reasoning_content": "a plan"},
    ],
)
def test_every_asker_gets_the_answer_alone_and_the_memo_keeps_the_reply(
    tmp_path: Path, message: dict[str, str]
) -> None:
    request = Request("e", "m", {"messages": [{"role": "user", "content": "x"}]})

    def thinking(_: web.Request, attempt: int, body: object) -> web.Response:
        return web.json_response({"choices": [{"finish_reason": "stop", "message": message}]})

    async def run(url: str) -> list[Reply]:
        async with Client("e", [url], "stub") as client:
            with Memo(tmp_path) as memo:
                return [await Caller({"e": client}).asker(memo)(request) for _ in range(2)]

    with StubServer(special=thinking) as stub:
        replies = asyncio.run(run(stub.url))
        assert sum(stub.stub.received.values()) == 1
    assert [(reply.text, reply.reasoning) for reply in replies] == [("the answer", "a plan")] * 2
    kept = Memo(tmp_path).get(request.request_id)
    assert kept is not None
    assert kept.text == message["content"]

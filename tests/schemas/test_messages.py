"""Whatever writes a conversation, it becomes the same messages, or an error that says what is wrong."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import (
    MESSAGE_FIELDS,
    ROLES,
    Message,
    MessageError,
    chat_messages,
    message,
    messages_id,
    text_of,
    to_messages,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: bool(t.strip()) and not t.lstrip().startswith("[{")
)
MESSAGES = st.lists(st.builds(message, st.sampled_from(ROLES), TEXT), min_size=1, max_size=4)


@given(text=TEXT, role=st.sampled_from(ROLES))
def test_text_is_one_message_untouched(text: str, role: Any) -> None:
    assert to_messages(text, role) == [message(role, text)]
    assert text_of(to_messages(text, role)) == text


@given(messages=MESSAGES)
def test_lists_json_text_and_openai_bodies_are_one_thing(messages: list[Message]) -> None:
    short = [{"role": m["role"], "content": m["content"]} for m in messages]
    ways = [messages, short, orjson.dumps(short).decode(), chat_messages(messages), to_messages(short, "user")]
    assert all(to_messages(way, "user") == messages for way in ways)
    assert len({messages_id(to_messages(way, "user")) for way in ways}) == 1


@given(one=MESSAGES, two=MESSAGES)
def test_ids_tell_messages_apart(one: list[Message], two: list[Message]) -> None:
    assert (messages_id(one) == messages_id(two)) == (one == two)


def test_other_notations_are_understood() -> None:
    assert to_messages([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "user") == [
        message("user", "q"),
        message("assistant", "a"),
    ]
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    (seen,) = to_messages({"role": "user", "content": parts}, "user")
    assert seen["content"] == "see"
    assert seen["media"] == [{"kind": "image", "uri": "https://x/y.png", "sha256": None, "mime": None}]


def test_tool_calls_survive_the_round_trip() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    kept = to_messages([{"role": "assistant", "content": None, "tool_calls": calls}], "assistant")
    assert chat_messages(kept) == [{"role": "assistant", "content": "", "tool_calls": calls}]
    assert to_messages(kept, "assistant") == kept


def test_text_that_only_looks_like_messages_stays_text() -> None:
    for text in ('[{"role": "user"}]', '[{"role": "x", broken', '["role"]'):
        assert to_messages(text, "user") == [message("user", text)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ([], "empty list"),
        ([{"role": "user", "content": " "}], "empty"),
        (None, "NoneType"),
        (3, "int"),
        (b"x", "bytes"),
        (["x"], "message 0 is str"),
        ([{"role": "user", "content": "x"}, {"role": "wizard", "content": "y"}], "message 1 has role 'wizard'"),
        ([{"role": "user", "content": 5}], "message 0 has content of type int"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "kind 'smell'"),
        ("a\ud800", "lone surrogate at character 1"),
        ([{"role": "user", "content": "\udfff"}], "lone surrogate at character 0"),
    ],
)
def test_anything_else_is_an_error_that_says_what(value: Any, words: str) -> None:
    with pytest.raises(MessageError) as error:
        to_messages(value, "user")
    assert words in str(error.value)


def test_attachments_have_every_field_and_hash_the_same_after_they_were_stored() -> None:
    item = {"kind": "image", "uri": "https://x/y.png"}
    found = to_messages([{"role": "user", "content": "see", "media": [item]}], "user")
    assert found[0]["media"] == [{"kind": "image", "uri": "https://x/y.png", "sha256": None, "mime": None}]
    stored = pl.DataFrame({"m": [found]}, schema={"m": pl.List(pl.Struct(_message_type()))})["m"].to_list()[0]
    assert messages_id(stored) == messages_id(found)
    for wrong in ("x.png", [{"uri": "x"}], ["x"], [{"kind": "image", "uri": 3}]):
        with pytest.raises(MessageError, match=r"media|attachment"):
            to_messages([{"role": "user", "content": "see", "media": wrong}], "user")


def _message_type() -> dict[str, Any]:
    return {name: column.dtype for name, column in MESSAGE_FIELDS.items()}

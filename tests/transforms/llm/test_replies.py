"""Whatever bytes a server sends, they are a reply or malformed: nothing else, and no exception of another kind."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stub_llm import MALFORMED
from transforms.llm.bodies import MalformedReplyError
from transforms.llm.replies import BodyError, parse_reply, read_error, retry_after
from transforms.llm.request import Reply, Request

REQUEST = Request("engine", "model", {"messages": []})
GOOD: dict[str, Any] = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "A", "refusal": None, "reasoning_content": "hm"},
            "logprobs": {
                "content": [
                    {"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "B", "logprob": -2.5}]},
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["choices", "message", "content", "logprobs", "text", "usage", "top_logprobs", "tokens", "token_logprobs"]
KEYED = st.recursive(
    JSON, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=5) | st.lists(inner, max_size=3)
)


def outcome(body: bytes, path: str = "chat/completions") -> Reply | None:
    try:
        return parse_reply(Request("engine", "model", {}, path=path), body)
    except (MalformedReplyError, BodyError):
        return None


def check(reply: Reply | None) -> None:
    if reply is None:
        return
    assert reply.state in ("ok", "refused")
    assert (reply.error is None) == (reply.state == "ok")
    assert min(reply.tokens_in, reply.tokens_out, reply.tokens_cached) >= 0
    assert reply.tokens_cached <= reply.tokens_in
    reply.text.encode("utf-8")
    for row in reply.logprobs or []:
        assert all(math.isfinite(value) and value <= 0 for value in row.values())


def test_a_reply_is_read() -> None:
    reply = parse_reply(REQUEST, json.dumps(GOOD).encode())
    assert (reply.state, reply.text, reply.reasoning, reply.finish_reason) == ("ok", "A", "hm", "stop")
    assert (reply.tokens_in, reply.tokens_cached, reply.tokens_out) == (7, 4, 1)
    assert reply.logprobs == [{"A": -0.1, "B": -2.5}]


@given(st.lists(st.tuples(st.sampled_from(["A", " A", "B"]), st.floats(0.001, 1.0)), min_size=1, max_size=8), st.data())
def test_alternatives_that_are_spelled_alike_add_up(alternatives: list[tuple[str, float]], data: st.DataObject) -> None:
    total = math.fsum(share for _, share in alternatives)
    rows = [{"token": token, "logprob": math.log(share / total)} for token, share in alternatives]
    chosen = data.draw(st.sampled_from(rows))
    body = {**GOOD, "choices": [{**GOOD["choices"][0], "logprobs": {"content": [{**chosen, "top_logprobs": rows}]}}]}
    (found,) = parse_reply(REQUEST, json.dumps(body).encode()).logprobs or []
    expected = {token: 0.0 for token, _ in alternatives}
    for token, share in alternatives:
        expected[token] += share / total
    assert {token: math.exp(value) for token, value in found.items()} == pytest.approx(expected)


def test_completions_with_echo_are_read() -> None:
    body = {
        "choices": [
            {
                "text": "to be",
                "finish_reason": "length",
                "logprobs": {
                    "tokens": ["to", " be"],
                    "token_logprobs": [None, -1.5],
                    "top_logprobs": [None, {"x": -1}],
                },
            }
        ]
    }
    reply = outcome(json.dumps(body).encode(), "completions")
    assert reply is not None
    assert reply.logprobs == [{}, {"x": -1.0, " be": -1.5}]


@pytest.mark.parametrize(
    "change",
    [{"finish_reason": "content_filter"}, {"message": {"role": "assistant", "content": None, "refusal": "I cannot."}}],
)
def test_a_refusal_is_a_state(change: dict[str, Any]) -> None:
    body = {**GOOD, "choices": [{**GOOD["choices"][0], **change}]}
    reply = parse_reply(REQUEST, json.dumps(body).encode())
    assert reply.state == "refused"
    assert reply.error


@settings(max_examples=300, deadline=None)
@given(KEYED, st.sampled_from(["chat/completions", "completions", "tokenize"]))
def test_any_json_is_a_reply_or_malformed(value: Any, path: str) -> None:
    check(outcome(json.dumps(value).encode(), path))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_malformed(body: bytes) -> None:
    check(outcome(body))


def test_ten_thousand_damaged_replies_are_replies_or_malformed() -> None:
    source = json.dumps(GOOD).encode()
    chance = random.Random(0)
    for _ in range(10_000):
        body = bytearray(source)
        for _ in range(chance.randint(1, 6)):
            action, place = chance.randrange(3), chance.randrange(len(body))
            if action == 0:
                body[place] = chance.randrange(256)
            elif action == 1:
                del body[place : place + chance.randint(1, 30)]
            else:
                body[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 5)))
            if not body:
                body = bytearray(b"{")
        check(outcome(bytes(body)))


def test_every_proper_prefix_of_a_reply_is_malformed() -> None:
    source = json.dumps(GOOD).encode()
    assert all(outcome(source[:end]) is None for end in range(len(source)))


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_bodies_are_malformed(body: bytes) -> None:
    assert outcome(body) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:20:00 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_an_error_is_one_line_with_the_reason() -> None:
    assert read_error(400, b'{"error": {"message": "too\\nlong"}}') == ("400: too long", "final")
    assert read_error(400, b'{"error": "too long"}') == ("400: too long", "final")
    assert read_error(400, b'{"object": "error", "message": "too long"}') == ("400: too long", "final")
    assert read_error(502, b"<html>bad</html>") == ("502: <html>bad</html>", "transient")
    assert read_error(400, b'{"error": {"message": "no", "code": "content_filter"}}') == ("400: no", "refused")

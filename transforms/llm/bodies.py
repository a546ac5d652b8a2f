"""From the bytes of a body to the JSON object in it, however a server writes it. Pure functions.

Python servers write NaN and Infinity, escape half of a character that was cut, or use an encoding of their own; some
proxies answer with an event stream though none was asked for. None of this costs the reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)
_SHOWN = 80  # characters of a body that is none in the message
_STREAM = "text/event-stream"


class MalformedReplyError(ValueError):
    """A successful status with a body that is not a reply; asking again may cure it.

    Attributes:
        cause: the kind of fault in a few words, for counting.
    """

    def __init__(self, message: str, cause: str = "a body that is no reply") -> None:
        super().__init__(message)
        self.cause = cause


def read_json(body: bytes, content_type: str = "") -> Any:
    """The JSON value that a body holds; of an event stream, the reply that its pieces make.

    Raises:
        MalformedReplyError: there is none; names the content type and how the body begins.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _read_loosely(body, content_type, str(error))


def read_body(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The object that a body holds, see `read_json`.

    Raises:
        MalformedReplyError: there is no object.
    """
    data = read_json(body, content_type)
    if not isinstance(data, dict):
        raise MalformedReplyError(f"reply is {type(data).__name__}, not an object")
    return data


def _read_loosely(body: bytes, content_type: str, why: str) -> Any:
    if content_type.lower().startswith(_STREAM) or body.lstrip()[:5] == b"data:":
        return _assembled(body)
    charset = _CHARSET.search(content_type)
    try:
        # Without a charset, json finds out which Unicode it is.
        text = body.decode(charset[1]) if charset else body
        return mended(json.loads(text))
    except (ValueError, LookupError, RecursionError):
        kind = f", content type {content_type}" if content_type else ""
        begins = body[:_SHOWN].decode("utf-8", "replace")
        raise MalformedReplyError(f"reply is not JSON ({len(body)} bytes{kind}): {why}; it begins {begins!r}") from None


def mended(value: Any) -> Any:
    """The value with U+FFFD for every half of a character."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data or data == b"[DONE]":
            continue
        yield read_body(data)


def _assembled(body: bytes) -> dict[str, Any]:
    """The reply in a stream of chat or text pieces.

    Raises:
        MalformedReplyError: it breaks off before a piece with a finish_reason, or before [DONE].
    """
    reply: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    tokens: list[Any] = []
    for event in _events(body):
        if event.get("error"):
            return event
        reply |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        pieces = event.get("choices")
        piece = pieces[0] if isinstance(pieces, list) and pieces and isinstance(pieces[0], dict) else {}
        choice |= {name: piece[name] for name in ("finish_reason", "error") if piece.get(name)}
        if isinstance(piece.get("text"), str):
            choice["text"] = choice.get("text", "") + piece["text"]
        delta = piece.get("delta") or piece.get("message")
        for name, value in (delta if isinstance(delta, Mapping) else {}).items():
            if name in ("content", "reasoning", "reasoning_content", "refusal") and isinstance(value, str):
                message[name] = message.get(name, "") + value
        logprobs = piece.get("logprobs")
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        tokens += content if isinstance(content, list) else []
    if not choice.get("finish_reason") and b"[DONE]" not in body:
        raise MalformedReplyError(f"an event stream of {len(body)} bytes that breaks off")
    if "text" not in choice:
        choice["message"] = {"content": None, **message}
    if tokens:
        choice["logprobs"] = {"content": tokens}
    return {**reply, "choices": [choice]} if choice or message else reply

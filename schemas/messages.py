"""Messages: OpenAI's chat format made columnar.

A prompt is a list of messages and so is a response: a multi-turn answer, a tool-using trajectory
and an image answer are the same type as one line of text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import dataframely as dy
import orjson

from schemas.ids import hash_json

ROLES = ("system", "developer", "user", "assistant", "tool")
Role = Literal["system", "developer", "user", "assistant", "tool"]

MEDIA_FIELDS: dict[str, dy.Column] = {
    "kind": dy.String(nullable=False),
    "uri": dy.String(nullable=False),
    "sha256": dy.String(nullable=True),
    "mime": dy.String(nullable=True),
}
MESSAGE_FIELDS: dict[str, dy.Column] = {
    "role": dy.String(nullable=False),
    "content": dy.String(nullable=False),
    "name": dy.String(nullable=True),
    "tool_calls": dy.String(nullable=True),
    "media": dy.List(dy.Struct(MEDIA_FIELDS), nullable=True),
}


class Media(TypedDict):
    """An attachment by address; `sha256` pins its content."""

    kind: str
    uri: str
    sha256: str | None
    mime: str | None


class Message(TypedDict):
    """One turn. `tool_calls` is the JSON text of OpenAI's list of calls."""

    role: str
    content: str
    name: NotRequired[str | None]
    tool_calls: NotRequired[str | None]
    media: NotRequired[list[Media] | None]


class MessageError(ValueError):
    """A value is neither a string nor a list of messages; the text says what it is instead."""


def to_messages(value: Any, role: Role) -> list[Message]:
    """Normalise a string, one message, a list of messages or the JSON text of such a list.

    Args:
        value: what stands in a source column.
        role: the role a bare string takes (`user` for prompts, `assistant` for responses).

    Raises:
        MessageError: the value is none of these, is empty, or is not valid Unicode.
    """
    if isinstance(value, str):
        parsed = _embedded_messages(value)
        if parsed is None:
            if not value.strip():
                raise MessageError("is empty")
            return [message(role, _valid_text(value))]
        value = parsed
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise MessageError(f"is {type(value).__name__}, not a string or a list of messages")
    if not value:
        raise MessageError("is an empty list of messages")
    messages = [_one(item, index) for index, item in enumerate(value)]
    if not any(m["content"].strip() or m.get("tool_calls") or m.get("media") for m in messages):
        raise MessageError("is empty")
    return messages


def message(
    role: str,
    content: str,
    name: str | None = None,
    tool_calls: str | None = None,
    media: list[Media] | None = None,
) -> Message:
    """A message with every field present, as the tables store it."""
    return {"role": role, "content": content, "name": name, "tool_calls": tool_calls, "media": media}


def messages_id(messages: Sequence[Message]) -> str:
    """Content hash of a list of messages; absent and null fields hash alike."""
    return hash_json([{k: v for k, v in m.items() if v is not None} for m in messages])


def text_of(messages: Sequence[Message] | None) -> str:
    """The messages as one plain text: contents alone if there is one message, else `role: content` blocks."""
    if not messages:
        return ""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as an OpenAI request body wants them: absent fields left out, tool calls as objects."""
    out: list[dict[str, Any]] = []
    for m in messages:
        item: dict[str, Any] = {"role": m["role"], "content": m["content"]}
        if m.get("name"):
            item["name"] = m["name"]
        if m.get("tool_calls"):
            item["tool_calls"] = orjson.loads(str(m["tool_calls"]))
        out.append(item)
    return out


def _embedded_messages(text: str) -> list[Any] | None:
    """A list of messages written as JSON text, or None when the text is just text."""
    stripped = text.lstrip()
    if not (stripped.startswith("[{") and '"role"' in stripped):
        return None
    try:
        parsed = orjson.loads(stripped)
    except orjson.JSONDecodeError:
        return None
    is_messages = isinstance(parsed, list) and all(
        isinstance(m, dict) and "role" in m and "content" in m for m in parsed
    )
    return parsed if is_messages else None


def _one(item: Any, index: int) -> Message:
    if not isinstance(item, Mapping):
        raise MessageError(f"message {index} is {type(item).__name__}, not an object with role and content")
    role = item.get("role", item.get("from"))
    role = {"human": "user", "gpt": "assistant"}.get(str(role), role)
    if role not in ROLES:
        raise MessageError(f"message {index} has role {role!r}; known roles: {', '.join(ROLES)}")
    content = item.get("content", item.get("value"))
    tool_calls = item.get("tool_calls")
    if content is None and tool_calls:
        content = ""
    media = _media(item.get("media"), index)
    if isinstance(content, list):
        content, media = _content_parts(content, index)
    if not isinstance(content, str):
        raise MessageError(f"message {index} has content of type {type(content).__name__}, not text")
    if tool_calls is not None and not isinstance(tool_calls, str):
        tool_calls = orjson.dumps(tool_calls, option=orjson.OPT_SORT_KEYS).decode() if tool_calls else None
    return message(str(role), _valid_text(content), item.get("name"), tool_calls, media or None)


def _media(value: Any, index: int) -> list[Media] | None:
    """Attachments with every field present, so that they hash the same before and after they are stored."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise MessageError(f"message {index} has media of type {type(value).__name__}, not a list")
    for item in value:
        if not isinstance(item, Mapping) or not all(isinstance(item.get(k), str) for k in ("kind", "uri")):
            raise MessageError(f"message {index} has an attachment {item!r}; expected kind and uri")
    return [{"kind": m["kind"], "uri": m["uri"], "sha256": m.get("sha256"), "mime": m.get("mime")} for m in value]


def _content_parts(parts: list[Any], index: int) -> tuple[str, list[Media]]:
    """OpenAI's list of content parts as one text and a list of attachments."""
    texts: list[str] = []
    media: list[Media] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(str(part.get("text", "")))
        elif isinstance(kind, str) and isinstance(part.get(kind), Mapping) and "url" in part[kind]:
            uri = str(part[kind]["url"])
            media.append({"kind": kind.removesuffix("_url"), "uri": uri, "sha256": None, "mime": None})
        else:
            known = "text, image_url, audio_url, video_url"
            raise MessageError(f"message {index} has a content part of kind {kind!r}; known: {known}")
    return "\n".join(texts), media


def _valid_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(f"is not valid Unicode (lone surrogate at character {error.start})") from None
    return text

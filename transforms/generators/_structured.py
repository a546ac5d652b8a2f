"""Replies that are JSON objects: the engine is given the schema, and what comes back is checked against it."""

from __future__ import annotations

from typing import Any

import orjson

from schemas.tables import Row
from transforms.generators.base import Generator, Tally, Yield
from transforms.llm.request import Reply, Request


def object_schema(**limits: int) -> dict[str, Any]:
    """`response_format` for an object of non-empty strings, each with its greatest length in characters."""
    properties = {name: {"type": "string", "minLength": 1, "maxLength": limit} for name, limit in limits.items()}
    schema = {"type": "object", "properties": properties, "required": list(limits), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}


def read_object(text: str, response_format: dict[str, Any]) -> dict[str, str] | str:
    """The object in a reply, strings stripped, or one sentence on why it cannot be read."""
    names = response_format["json_schema"]["schema"]["required"]
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return "holds no JSON object"
    try:
        value = orjson.loads(text[start : end + 1])
    except orjson.JSONDecodeError as error:
        return f"is not valid JSON: {error}"
    bad = [name for name in names if not isinstance(value.get(name), str) or not value[name].strip()]
    if bad:
        return f"lacks a non-empty text for {', '.join(bad)}"
    return {name: value[name].strip() for name in names}


async def ask_object(
    generator: Generator, request: Request, response_format: dict[str, Any], row: Row, ask: Tally, out: Yield
) -> dict[str, str] | None:
    """The object the engine answers with; an unusable or unreadable reply is a reject (`unparsable`)."""
    reply: Reply = await ask(request)
    if not generator.usable(reply, row, out, {"purpose": "/".join(request.salt.split("/")[1:])}):
        return None
    value = read_object(reply.text, response_format)
    if isinstance(value, str):
        payload = {"prompt_id": row["prompt_id"], "text": reply.text}
        generator.reject(out, "unparsable", request.request_id, f"the reply {value}", payload)
        return None
    ask.parsed()
    return value

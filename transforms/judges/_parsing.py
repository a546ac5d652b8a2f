"""Reading JSON and tags out of text that a model wrote: total (never raises), and as lenient as JSON stays unambiguous.

Where no server binds a reply to its schema, models leave commas at the end, break lines within texts, write LaTeX with
single backslashes, or Python. What is read is what a person would read; a brace that is missing is never added.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from transforms.llm.bodies import mended
from transforms.llm.reasoning import silence
from transforms.llm.request import Reply

M = TypeVar("M", bound=BaseModel)
Letter = Literal["A", "B", "C"]
LABELS: Mapping[str, str] = {"A": "a", "B": "b", "C": "tie"}
REASONING_LIMIT = 8000  # characters of a reasoning that are kept with a vote
_LIMITS = frozenset({"maxLength", "minLength", "minItems", "maxItems", "minimum", "maximum", "title", "default"})
_LOOSE_LIMIT = 50_000  # characters of an object that is read as anything but JSON
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([\"\\/bfnrt]|u[0-9a-fA-F]{4})|)", re.DOTALL)
_CURLY = str.maketrans("“”", '""')
# Of a schema that is sent and read: servers are told of no further field, and one that is there costs nothing.
LENIENT = ConfigDict(extra="ignore", json_schema_extra={"additionalProperties": False})


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object of a reply: all of it, or the last that stands in the text."""
    found = [value for value, _, _ in objects(text)]
    return found[-1] if found else None


def objects(text: str) -> list[tuple[dict[str, Any], int, int]]:
    """The outermost JSON objects in a text, each with the places where it begins and ends."""
    text = text.replace("\ufeff", " ")
    whole = _object(text)
    if whole is not None:
        return [(whole, 0, len(text))]
    read = ((_object(text[start:end]), start, end) for start, end in _spans(text))
    return [(value, start, end) for value, start, end in read if value is not None]


def read_answer(reply: Reply, model: type[M]) -> M | str:
    """The reply's JSON object as `model`, or a sentence that says what is wrong with it."""
    nothing = silence(reply)
    if nothing is not None:
        return nothing
    found = objects(reply.text)
    if not found:
        return cut_off(reply) or "no JSON object in the reply"
    if (cut := cut_off(reply, found[-1][2])) is not None:
        return cut
    names = {(field.alias or name).lower(): field.alias or name for name, field in model.model_fields.items()}
    try:
        return model.model_validate({names.get(name.lower(), name): value for name, value in found[-1][0].items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "object"
        return f"JSON does not fit the schema: {where}: {first['msg']}"


def tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>...</tag>`; None if there is none."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return texts[-1].strip() if texts else None


def openai_schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """`response_format` that binds a reply to a pydantic model.

    Limits of length and range are left out: OpenAI's strict mode refuses them and grammar-based servers turn them
    into grammars of their size. `validated` checks them.
    """
    schema = _without_limits(model.model_json_schema())
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def cut_off(reply: Reply, end: int = 0) -> str | None:
    """A reason if the reply went on after the character before `end` until its tokens ran out."""
    if reply.finish_reason != "length" or not reply.text[end:].strip(" \t\r\n`"):
        return None
    return f"the reply was cut off after {reply.tokens_out} tokens; raise max_tokens"


def _without_limits(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_limits(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_limits(value) for key, value in schema.items() if key not in _LIMITS}


def _object(text: str) -> dict[str, Any] | None:
    text = text.strip()
    if not text.startswith("{"):
        return None
    value: Any
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _read_loosely(text) if len(text) <= _LOOSE_LIMIT else None
    return value if isinstance(value, dict) and all(isinstance(name, str) for name in value) else None


def _read_loosely(text: str) -> Any:
    if '"' not in text:
        text = text.translate(_CURLY)
    try:
        plain = _STRING_OR_COMMA.sub(lambda match: _unescaped(match[1]) if match[1] else "", text)
        return mended(json.loads(plain, strict=False))
    except (ValueError, RecursionError):
        pass
    try:
        return mended(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _unescaped(string: str) -> str:
    """A JSON string in which every backslash that escapes nothing is one itself."""
    return _ESCAPE.sub(lambda match: match[0] if match[1] else "\\\\", string)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the outermost balanced `{...}` stand. Braces inside JSON strings do not count. Linear time."""
    depth, start, in_string, escaped = 0, 0, False, False
    for index, character in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"' and depth:
            in_string = True
        elif character == "{":
            if depth == 0:
                start = index
            depth += 1
        elif character == "}" and depth:
            depth -= 1
            if depth == 0:
                yield start, index + 1

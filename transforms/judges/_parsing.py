"""Reading verdicts out of text that a model wrote: strict, total (never raises), last word counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
Letter = Literal["A", "B", "C"]
LABELS: Mapping[str, str] = {"A": "a", "B": "b", "C": "tie"}
_LIMITS = frozenset({"maxLength", "minLength", "minItems", "maxItems", "minimum", "maximum", "title", "default"})
_THINKING_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_CODE_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_BRACKETED = re.compile(r"\[\[\s*([ABC])\s*\]\]")


def spoken(text: str) -> str:
    """The text after the model's thinking, if a server leaves it in the reply."""
    return _THINKING_END.split(text)[-1].strip()


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object of a reply: all of it, or in its last code fence, or the last that stands in the text."""
    text = spoken(text)
    for candidate in [text, *reversed(_CODE_FENCE.findall(text))]:
        parsed = _object(candidate)
        if parsed is not None:
            return parsed
    return _last_object(text)


def validated(text: str, model: type[M]) -> M | str:
    """The reply's JSON object as `model`, or a sentence that says what is wrong with it."""
    parsed = json_object(text)
    if parsed is None:
        return "no JSON object in the reply"
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "object"
        return f"JSON does not fit the schema: {where}: {first['msg']}"


def tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>...</tag>`; None if there is none."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return texts[-1].strip() if texts else None


def bracketed_letter(text: str) -> str | None:
    """A, B or C from `[[A]]` where exactly one letter is so marked; None if none is or they disagree."""
    letters = set(_BRACKETED.findall(text))
    return letters.pop() if len(letters) == 1 else None


def openai_schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """`response_format` that binds a reply to a pydantic model.

    Limits of length and range are left out: OpenAI's strict mode refuses them and grammar-based servers turn them
    into grammars of their size. `validated` checks them.
    """
    schema = _without_limits(model.model_json_schema())
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _without_limits(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_limits(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_limits(value) for key, value in schema.items() if key not in _LIMITS}


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text.strip())
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _last_object(text: str) -> dict[str, Any] | None:
    """The last outermost balanced `{...}` that is JSON. Braces inside JSON strings do not count. Linear time."""
    last = None
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
                candidate = _object(text[start : index + 1])
                last = last if candidate is None else candidate
    return last

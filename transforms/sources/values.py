"""A source row seen through the recipe: fields instead of columns, each of the type its table wants."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.messages import Message, MessageError, Role
from schemas.tables import CONTEXT_KINDS
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.conversation import read_messages
from transforms.sources.detect import Layout

Row = dict[str, Any]
TEXT_FIELDS = ("kind", "reference", "language", "user_id", "group_id", "context")


class RowError(Exception):
    """The row cannot be used: a reason code, and a sentence naming field and fix."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Values:
    """A source row seen through the recipe: fields instead of columns."""

    row: Mapping[str, Any]
    config: PromptsSource | PairsSource
    layout: Layout

    def column(self, name: str) -> str:
        """The source's name for a field."""
        return self.layout.columns.get(name, name)

    def get(self, name: str) -> Any:
        """A field's value as it stands in the row, or its constant; None if there is none."""
        if name in self.config.constants:
            return self.config.constants[name]
        column = self.layout.columns.get(name)
        return None if column is None else self.row.get(column)

    def has(self, name: str) -> bool:
        """Whether the source may hold the field at all."""
        return name in self.layout.columns or name in self.config.constants

    def messages(self, name: str, role: Role) -> list[Message]:
        """A prompt or response. Raises RowError if it is neither text nor messages, or empty."""
        return messages_of(self.get(name), self.column(name), role, "prompt" if name == "prompt" else "response")

    def check_length(self, name: str, messages: list[Message]) -> None:
        """Raise RowError if the messages have more than `max_chars` characters together."""
        length = sum(len(m["content"]) for m in messages)
        if length > self.config.max_chars:
            detail = (
                f"Field {self.column(name)} has {length} characters, more than max_chars ({self.config.max_chars})."
            )
            raise RowError("too_long", detail + " Shorten it or raise max_chars.")

    def text(self, name: str) -> str | None:
        """An optional short text; whole numbers and truth values are written out."""
        value = self.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (str, int)):
            return str(value)
        raise RowError("bad_field", f"Field {self.column(name)} is {type(value).__name__}, not a text.")

    def items(self, name: str) -> list[Any]:
        """A list, also from JSON text."""
        value = _parsed(self.get(name))
        if not isinstance(value, list):
            kind = "null" if value is None else type(value).__name__
            raise RowError("bad_field", f"Field {self.column(name)} is {kind}, not a list.")
        return value

    def texts(self, name: str) -> list[str] | None:
        """An optional list of texts; a single text is a list of one."""
        value = _parsed(self.get(name))
        if value is None or value == "" or value == []:
            return None
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise RowError("bad_field", f"Field {self.column(name)} is not a list of texts.")
        return listed

    def strength(self) -> float | None:
        """The absolute strength of the preference; None if it is missing or zero."""
        return abs(number_of(self.get("strength"), self.column("strength")) or 0.0) or None

    def checks(self) -> str | None:
        """The checkable constraints as the tables store them: JSON of a list of objects with a type."""
        value = _parsed(self.get("checks"))
        if value is None or value == "" or value == []:
            return None
        if not isinstance(value, list) or not all(
            isinstance(c, dict) and isinstance(c.get("type"), str) for c in value
        ):
            raise RowError("bad_field", f"Field {self.column('checks')} is not a list of objects with a type.")
        # A Parquet list of structs gives every check every other check's fields, as nulls.
        return orjson.dumps([{k: v for k, v in c.items() if v is not None} for c in value]).decode()

    def shared(self) -> Row:
        """The fields that prompts and pairs have in common."""
        texts = {name: self.text(name) for name in TEXT_FIELDS if name != "context" and self.has(name)}
        return {**texts, "checks": self.checks(), "tags": self.texts("tags"), "meta": self.meta()}

    def pair_fields(self) -> Row:
        """The optional columns of a pair other than its models."""
        if not self.has("context"):
            return self.shared()
        context, kind = self.get("context"), self.text("context_kind")
        if isinstance(context, list) and all(isinstance(part, str) for part in context):
            text: str | None = "\n\n".join(context) or None
        else:
            text = self.text("context")
        if kind is not None and kind not in CONTEXT_KINDS:
            detail = f"Field {self.column('context_kind')} is {kind!r}; known: {', '.join(CONTEXT_KINDS)}."
            raise RowError("bad_field", detail)
        return {"context": text, "context_kind": kind if text else None, **self.shared()}

    def meta(self) -> str | None:
        """The columns nobody reads, as JSON."""
        return meta_json(self.row, self.layout)


def meta_json(row: Mapping[str, Any], layout: Layout) -> str | None:
    """The columns nobody reads, and the source's own id, as a JSON object; None if there are none.

    A column `meta` that holds an object (as our exports do, as JSON text) gives its fields, not itself.
    """
    kept = {name: value for name, value in row.items() if value is not None and name not in layout.taken}
    inner = _object(kept.get("meta"))
    if inner is not None:
        kept = {**inner, **{name: value for name, value in kept.items() if name != "meta"}}
    identifier = row.get(layout.columns["id"]) if "id" in layout.columns else None
    if identifier is not None:
        kept.pop(layout.columns["id"], None)
        kept["id"] = identifier
    return dump(kept) if kept else None


def _object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    return value if isinstance(value, dict) else None


def dump(value: Any) -> str:
    """JSON text of anything a row can hold; what JSON does not know is written as its Python text."""
    try:
        return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, default=repr, ensure_ascii=False, sort_keys=True)


def messages_of(value: Any, name: str, role: Role, what: str) -> list[Message]:
    """A value as messages; `what` is "prompt" or "response".

    Raises:
        RowError: it is null, empty, or neither text nor messages.
    """
    if value is None:
        raise RowError(f"empty_{what}", f"Field {name} is null; give a text or a list of messages.")
    try:
        return read_messages(value, role)
    except MessageError as error:
        text = str(error)
        reason = "lone_surrogate" if "surrogate" in text else f"{'empty' if 'empty' in text else 'bad'}_{what}"
        raise RowError(reason, f"Field {name} {text}.") from None


def _parsed(value: Any) -> Any:
    """A list given as JSON text (CSV has no lists) as the list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def number_of(value: Any, name: str) -> float | None:
    """A finite number, also from text; None if it is null, empty or NaN.

    Raises:
        RowError: it is anything else.
    """
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, float) and math.isnan(value):
        return None
    if not math.isfinite(number):
        raise RowError("bad_number", f"Field {name} is {value!r:.80}, not a finite number.")
    return number

"""One row of a source as pairs or a prompt, whatever its shape: the careful path, which also explains rejects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import orjson

from schemas.messages import Message, MessageError, Role, message, messages_id
from schemas.pairs import make_pair
from schemas.tables import CONTEXT_KINDS
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.conversation import (
    PromptError,
    is_transcript,
    read_messages,
    split_conversations,
    split_texts,
    strip_echo,
    with_given_prompt,
)
from transforms.sources.detect import Layout
from transforms.sources.labels import UnknownLabel, read_label

Row = dict[str, Any]
TEXT_FIELDS = ("kind", "reference", "language", "user_id", "group_id", "context")


class RowError(Exception):
    """The row cannot be used: a reason code, and a sentence naming field and fix."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass
class Made:
    """What one row gave: pairs (each with whether its responses were exchanged, and its scores if it had any)."""

    pairs: list[tuple[Row, bool, tuple[float, float] | None]] = field(default_factory=list)
    left_out: list[tuple[str, RowError]] = field(default_factory=list)  # parts of a row that is kept otherwise


def prompt_row(row: Row, config: PromptsSource, layout: Layout) -> Row:
    """The `prompts` row of a source row.

    Raises:
        RowError: a field is missing or malformed.
    """
    values = _Values(row, config, layout)
    prompt = values.messages("prompt", "user")
    return {
        "prompt_id": messages_id(prompt),
        "prompt": prompt,
        "documents": values.texts("documents"),
        **values.shared(),
    }


def pair_rows(row: Row, config: PairsSource, layout: Layout, origin_ref: str) -> Made:
    """The `pairs` rows of a source row.

    Raises:
        RowError: the row gives no pair at all.
        DataError: the label column holds numbers and the recipe does not say what they mean.
    """
    values = _Values(row, config, layout)
    if layout.format == "rated":
        return _rated(values, config, origin_ref)
    first_field, second_field = ("response_a", "response_b") if layout.format == "labelled" else ("chosen", "rejected")
    prompt, first, second, stripped = _three(values, config, layout, first_field, second_field)
    for name, messages in (("prompt", prompt), (first_field, first), (second_field, second)):
        values.check_length(name, messages)
    label: str | None = "a"
    if layout.format == "labelled":
        try:
            label = read_label(values.get("label"), config.labels, f"{origin_ref}, column {values.column('label')}")
        except UnknownLabel as error:
            raise RowError("unknown_label", f"Field {values.column('label')} {error}") from None
    models = ("model_a", "model_b") if layout.format == "labelled" else ("model_chosen", "model_rejected")
    extra = values.pair_fields()
    if stripped:
        extra["tags"] = [*(extra["tags"] or []), "prompt_stripped"]
    try:
        pair, swapped = make_pair(
            prompt,
            first,
            second,
            first_label=label,
            model_first=values.text(models[0]),
            model_second=values.text(models[1]),
            source_strength=values.strength() if label in ("a", "b") else None,
            origin=config.name,
            origin_ref=origin_ref,
            **extra,
        )
    except ValueError:
        detail = f"Fields {first_field} and {second_field} are identical; a pair needs two different responses."
        raise RowError("identical_responses", detail) from None
    return Made([(pair, swapped, None)])


def _three(
    values: _Values, config: PairsSource, layout: Layout, first_field: str, second_field: str
) -> tuple[list[Message], list[Message], list[Message], bool]:
    """Prompt and two responses, and whether a repeated plain-text prompt was cut off the responses."""
    raw_first, raw_second = values.get(first_field), values.get(second_field)
    first = values.messages(first_field, "assistant")
    second = values.messages(second_field, "assistant")
    plain = _is_plain(raw_first, first) and _is_plain(raw_second, second)
    try:
        if layout.format == "conversations":
            if plain:
                text, *rests = split_texts(first[0]["content"], second[0]["content"])
                return [message("user", text)], _said(rests[0]), _said(rests[1]), False
            return (*split_conversations(first, second), False)
        prompt = values.messages("prompt", "user")
        if plain and isinstance(values.get("prompt"), str):
            rest = strip_echo(values.get("prompt"), first[0]["content"], second[0]["content"], config.strip_prompt)
            if rest:
                return prompt, _said(rest[0]), _said(rest[1]), True
            return prompt, first, second, False
        return (*with_given_prompt(prompt, first, second), False)
    except PromptError as error:
        raise RowError("no_prompt", f"Fields {first_field} and {second_field}: {error}.") from None


def _is_plain(raw: Any, messages: list[Message]) -> bool:
    return isinstance(raw, str) and not is_transcript(raw) and len(messages) == 1 and messages[0]["content"] == raw


def _said(text: str) -> list[Message]:
    return [message("assistant", text)]


def _rated(values: _Values, config: PairsSource, origin_ref: str) -> Made:
    prompt = values.messages("prompt", "user")
    values.check_length("prompt", prompt)
    responses, scores = values.items("responses"), values.items("scores")
    if len(responses) != len(scores):
        detail = (
            f"Fields responses and scores have {len(responses)} and {len(scores)} items; give one score a response."
        )
        raise RowError("length_mismatch", detail)
    models = values.items("models") if values.get("models") is not None else [None] * len(responses)
    if len(models) != len(responses):
        detail = (
            f"Fields responses and models have {len(responses)} and {len(models)} items; give one model a response."
        )
        raise RowError("length_mismatch", detail)
    made = Made()
    usable: list[tuple[int, list[Message], float, str | None]] = []
    for index, (response, score, model) in enumerate(zip(responses, scores, models, strict=True)):
        try:
            messages = _messages(response, f"responses[{index}]", "assistant", "response")
            values.check_length(f"responses[{index}]", messages)
            number = _number(score, f"scores[{index}]")
            if number is None:
                raise RowError("bad_number", f"Field scores[{index}] is null; give a number.")
            usable.append((index, messages, number, None if model is None else str(model)))
        except RowError as error:
            made.left_out.append((f"#{index}", error))
    if len(usable) < 2:
        why = f" ({made.left_out[0][1].detail})" if made.left_out else ""
        raise RowError(
            "too_few_responses",
            f"Field responses has {len(usable)} usable of {len(responses)} items; 2 are needed.{why}",
        )
    chosen = list(combinations(usable, 2))
    if config.pairing == "best_worst":
        ranked = sorted(usable, key=lambda item: (-item[2], item[0]))
        chosen = [(ranked[0], ranked[-1])]
    extra = values.pair_fields()
    for (i, first, score_1, model_1), (j, second, score_2, model_2) in chosen:
        gap = score_1 - score_2
        try:
            pair, swapped = make_pair(
                prompt,
                first,
                second,
                first_label="tie" if gap == 0 else "a" if gap > 0 else "b",
                model_first=model_1,
                model_second=model_2,
                source_strength=abs(gap) or None,
                origin=config.name,
                origin_ref=f"{origin_ref}#{i},{j}",
                **extra,
            )
            made.pairs.append((pair, swapped, (score_1, score_2)))
        except ValueError:
            detail = f"Fields responses[{i}] and responses[{j}] are identical; a pair needs two different responses."
            made.left_out.append((f"#{i},{j}", RowError("identical_responses", detail)))
    if not made.pairs:
        raise RowError("identical_responses", "Field responses holds no two different responses.")
    return made


@dataclass(frozen=True)
class _Values:
    """A source row seen through the recipe: fields instead of columns."""

    row: Mapping[str, Any]
    config: PromptsSource | PairsSource
    layout: Layout

    def column(self, name: str) -> str:
        return self.layout.columns.get(name, name)

    def get(self, name: str) -> Any:
        if name in self.config.constants:
            return self.config.constants[name]
        column = self.layout.columns.get(name)
        return None if column is None else self.row.get(column)

    def messages(self, name: str, role: Role) -> list[Message]:
        return _messages(self.get(name), self.column(name), role, "prompt" if name == "prompt" else "response")

    def check_length(self, name: str, messages: list[Message]) -> None:
        length = sum(len(m["content"]) for m in messages)
        if length > self.config.max_chars:
            detail = (
                f"Field {self.column(name)} has {length} characters, more than max_chars ({self.config.max_chars})."
            )
            raise RowError("too_long", detail + " Shorten it or raise max_chars.")

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (str, int)):
            return str(value)
        raise RowError("bad_field", f"Field {self.column(name)} is {type(value).__name__}, not a text.")

    def items(self, name: str) -> list[Any]:
        value = _parsed(self.get(name))
        if not isinstance(value, list):
            kind = "null" if value is None else type(value).__name__
            raise RowError("bad_field", f"Field {self.column(name)} is {kind}, not a list.")
        return value

    def texts(self, name: str) -> list[str] | None:
        value = _parsed(self.get(name))
        if value is None or value == "" or value == []:
            return None
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise RowError("bad_field", f"Field {self.column(name)} is not a list of texts.")
        return listed

    def strength(self) -> float | None:
        return abs(_number(self.get("strength"), self.column("strength")) or 0.0) or None

    def checks(self) -> str | None:
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
        texts = {name: self.text(name) for name in TEXT_FIELDS if name != "context"}
        return {**texts, "checks": self.checks(), "tags": self.texts("tags"), "meta": self.meta()}

    def pair_fields(self) -> Row:
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
        return meta_json(self.row, self.layout)


def meta_json(row: Mapping[str, Any], layout: Layout) -> str | None:
    """The columns nobody reads, and the source's own id, as a JSON object; None if there are none."""
    kept = {name: value for name in layout.others if (value := row.get(name)) is not None}
    identifier = row.get(layout.columns["id"]) if "id" in layout.columns else None
    if identifier is not None:
        kept.pop(layout.columns["id"], None)
        kept["id"] = identifier
    return dump(kept) if kept else None


def dump(value: Any) -> str:
    """JSON text of anything a row can hold; what JSON does not know is written as its Python text."""
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS).decode()


def _messages(value: Any, name: str, role: Role, what: str) -> list[Message]:
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


def _number(value: Any, name: str) -> float | None:
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

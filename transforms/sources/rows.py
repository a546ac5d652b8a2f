"""One row of a source as pairs or a prompt, whatever its shape: the careful path, which also explains rejects."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from schemas.messages import Message, message, messages_id
from schemas.pairs import make_pair
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.conversation import (
    PromptError,
    is_transcript,
    split_conversations,
    split_texts,
    strip_echo,
    with_given_prompt,
)
from transforms.sources.detect import Layout
from transforms.sources.labels import UnknownLabel, read_label
from transforms.sources.values import RowError, Values, messages_of, number_of

Row = dict[str, Any]


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
    values = Values(row, config, layout)
    prompt = values.messages("prompt", "user")
    values.check_length("prompt", prompt)
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
    values = Values(row, config, layout)
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
    values: Values, config: PairsSource, layout: Layout, first_field: str, second_field: str
) -> tuple[list[Message], list[Message], list[Message], bool]:
    """Prompt and two responses, and whether a repeated plain-text prompt was cut off the responses."""
    given = layout.format != "conversations"
    prompt = values.messages("prompt", "user") if given else []
    first = values.messages(first_field, "assistant")
    second = values.messages(second_field, "assistant")
    plain = all(_is_plain(values.get(f), m) for f, m in ((first_field, first), (second_field, second)))
    try:
        if not given:
            if plain:
                text, *rests = split_texts(first[0]["content"], second[0]["content"])
                return [message("user", text)], _reply(rests[0]), _reply(rests[1]), False
            return (*split_conversations(first, second), False)
        if plain and isinstance(values.get("prompt"), str):
            rest = strip_echo(values.get("prompt"), first[0]["content"], second[0]["content"], config.strip_prompt)
            if rest:
                return prompt, _reply(rest[0]), _reply(rest[1]), True
            return prompt, first, second, False
        return (*with_given_prompt(prompt, first, second), False)
    except PromptError as error:
        raise RowError("no_prompt", f"Fields {first_field} and {second_field}: {error}.") from None


def _is_plain(raw: Any, messages: list[Message]) -> bool:
    return isinstance(raw, str) and not is_transcript(raw) and len(messages) == 1 and messages[0]["content"] == raw


def _reply(text: str) -> list[Message]:
    return [message("assistant", text)]


def _rated(values: Values, config: PairsSource, origin_ref: str) -> Made:
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
            messages = messages_of(response, f"responses[{index}]", "assistant", "response")
            values.check_length(f"responses[{index}]", messages)
            number = number_of(score, f"scores[{index}]")
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

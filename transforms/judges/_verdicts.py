"""The one verdict in a reply, or why there is none. Total, and never a guess: a reply that hedges, names both, repeats
the template, quotes somebody else's verdict or was cut off has none.

tests/transforms/judges/verdict_replies.yaml lists replies with the verdict that each gives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from transforms.judges._parsing import REASONING_LIMIT, cut_off, objects
from transforms.llm.reasoning import silence
from transforms.llm.request import Reply
from transforms.text.letters import letter

_BRACKETED = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
# What stands in the template where the reasoning belongs.
_PLACEHOLDER = re.compile(r"\s*(?:\.\.\.|…|<[^<>]*>|two to five sentences that compare the responses[,.]?)\s*")
_CONDITION = re.compile(r"\s*if\b")  # what follows every verdict of the template
_EMPHASIS = " \t\r*_`"
_BEGINNING = re.compile(r"^$|[.!?:>}]$")  # of a sentence: the line's beginning, or the end of another one
_QUOTES = "`'\"“‘"


def bracketed_letter(text: str) -> str | None:
    """A, B or C from `[[A]]` where exactly one letter is so marked; None if none is or they disagree."""
    letters = set(_BRACKETED.findall(text))
    return letters.pop() if len(letters) == 1 else None


def json_verdict(reply: Reply) -> tuple[str, str | None] | str:
    """The letter in the field `verdict` of the reply's JSON, with its reasoning; or why there is none."""
    nothing = silence(reply)
    if nothing is not None:
        return nothing
    text = reply.text
    places = [
        _Place(start, end, fields)
        for value, start, end in objects(text)
        if not is_quoted(text, start) and "verdict" in (fields := _by_name(value))
    ]
    if not places:
        return cut_off(reply) or "no JSON object with a verdict in the reply"
    letters = set[str]()
    places = _foremost(text, places)
    for place in places:
        for value in place.fields["verdict"]:
            read = letter(value) if isinstance(value, str) else None
            if read is None:
                return f"the verdict is {value!r:.60}, not one of A, B and C"
            letters.add(read)
        if any(isinstance(said, str) and _PLACEHOLDER.fullmatch(said) for said in place.fields.get("reasoning", [])):
            return "the reply repeats the template"
    problem = _disagreement(letters) or cut_off(reply, places[-1].end)
    return problem if problem is not None else (letters.pop(), _text(places[-1].fields.get("reasoning", [])))


def tagged_verdict(reply: Reply) -> tuple[str] | str:
    """The letter in the reply's `<answer>`, as a tuple of one; or why there is none."""
    nothing = silence(reply)
    if nothing is not None:
        return nothing
    text = reply.text
    places = [
        _Place(match.start(), match.end(), {"answer": [match[1]]})
        for match in _ANSWER.finditer(text)
        if not is_quoted(text, match.start())
    ]
    if not places:
        return cut_off(reply) or "no <answer> in the reply"
    letters = set[str]()
    places = _foremost(text, places)
    for place in places:
        (answer,) = place.fields["answer"]
        if _CONDITION.match(text, place.end):
            return "the reply repeats the template"
        marked = bracketed_letter(answer) if _BRACKETED.search(answer) else letter(answer)
        if marked is None or "?" in answer:
            return "<answer> does not mark exactly one of [[A]], [[B]], [[C]]"
        letters.add(marked)
    problem = _disagreement(letters) or cut_off(reply, places[-1].end)
    return problem if problem is not None else (letters.pop(),)


class _Place(NamedTuple):
    """Where a verdict stands in a text, and its fields with all their values."""

    start: int
    end: int
    fields: dict[str, list[Any]]


def _foremost(text: str, places: list[_Place]) -> list[_Place]:
    """The verdicts that stand by themselves; all, if each stands within a sentence, as one that is quoted does."""
    return [place for place in places if _stands_alone(text, place)] or places


def _stands_alone(text: str, place: _Place) -> bool:
    line_end = text.find("\n", place.end)
    after = text[place.end : line_end if line_end >= 0 else len(text)]
    before = _before_on_line(text, place.start)
    return not after.strip(_EMPHASIS) and _BEGINNING.search(before.rstrip(_EMPHASIS)) is not None


def _before_on_line(text: str, start: int) -> str:
    return text[text.rfind("\n", 0, start) + 1 : start]


def _disagreement(letters: set[str]) -> str | None:
    return "the reply gives more than one verdict" if len(letters) > 1 else None


def is_quoted(text: str, start: int) -> bool:
    """Whether what begins at `start` is somebody else's: on a quoted line, or after words and a quotation mark."""
    before = _before_on_line(text, start)
    if before.lstrip().startswith(">"):
        return True
    return before[-1:] in _QUOTES and before != "" and re.search(r"\w", before) is not None


def _by_name(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of every field, by its name in lower case."""
    fields: dict[str, list[Any]] = {}
    for name, content in value.items():
        fields.setdefault(name.strip().lower(), []).append(content)
    return fields


def _text(values: Sequence[Any]) -> str | None:
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return "\n".join(str(text) for text in texts if text is not None)[:REASONING_LIMIT] or None

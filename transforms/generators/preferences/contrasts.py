"""Criteria that pull in opposite directions, and measures that tell which text follows which."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from transforms.text.similarity import words

_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_CONTRACTION = re.compile(r"\b\w+['’](?:t|re|ll|ve|d|m|s)\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|we|us|our|ours)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|likely|seems?|appears?|usually|often|generally|about|roughly)\b",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(r"\b(?:for example|for instance|such as|e\.g\.|imagine|suppose)", re.IGNORECASE)

# Each measure maps a text to a number; what it counts is its name.
MEASURES: dict[str, Callable[[str], float]] = {
    "words": lambda text: float(len(words(text))),
    "list_items": lambda text: float(len(_LIST_ITEM.findall(text))),
    "digits": lambda text: float(sum(c.isdigit() for c in text)),
    "questions": lambda text: float(text.count("?")),
    "exclamations": lambda text: float(text.count("!")),
    "contractions": lambda text: float(len(_CONTRACTION.findall(text))),
    "first_person": lambda text: float(len(_FIRST_PERSON.findall(text))),
    "second_person": lambda text: float(len(_SECOND_PERSON.findall(text))),
    "hedges": lambda text: float(len(_HEDGE.findall(text))),
    "examples": lambda text: float(len(_EXAMPLE.findall(text))),
    "words_per_sentence": lambda text: len(words(text)) / max(1, len(_SENTENCE_END.findall(text))),
    "letters_per_word": lambda text: sum(map(len, words(text))) / max(1, len(words(text))),
    "paragraphs": lambda text: float(sum(bool(part.strip()) for part in text.split("\n\n"))),
}


@dataclass(frozen=True)
class Contrast:
    """A criterion and its twin: whoever wins under one loses under the other.

    `measure` (a name of `MEASURES`, or None where only reading decides) is larger in the text that fits
    `more` and smaller in the one that fits `less`; it decides from a relative difference of `decisive`.
    """

    name: str
    more: str
    less: str
    kind: str = "criterion"
    measure: str | None = None
    decisive: float = 0.2

    def favours_more(self, first: str, second: str) -> int:
        """+1 if `first` fits `more` better, -1 if `second` does, 0 if the measure is absent or too close."""
        if self.measure is None:
            return 0
        x, y = MEASURES[self.measure](first), MEASURES[self.measure](second)
        if abs(x - y) < self.decisive * max(abs(x), abs(y), 1.0):
            return 0
        return 1 if x > y else -1


@cache
def contrasts() -> tuple[Contrast, ...]:
    """The built-in contrasts (contrasts.v1.yaml)."""
    text = (files("transforms.generators.preferences") / "contrasts.v1.yaml").read_text(encoding="utf-8")
    return tuple(Contrast(**item) for item in yaml.safe_load(text))


def contrast_of(name: str) -> Contrast:
    """The built-in contrast of that name.

    Raises:
        KeyError: there is none.
    """
    return {c.name: c for c in contrasts()}[name]

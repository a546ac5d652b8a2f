"""Personas: who they are, what they prefer, and how that decides a pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from schemas.ids import hash_json, unit_interval
from transforms.generators.preferences.contrasts import Contrast, contrasts


@dataclass(frozen=True)
class Exemplar:
    """A small prompt with a response for each side of a contrast: a persona's few-shot preference."""

    prompt: str
    more: str
    less: str


@dataclass(frozen=True)
class Persona:
    """Attributes, and views in order of weight; a view is (contrast name, side it prefers: more or less)."""

    attributes: tuple[tuple[str, str], ...]
    views: tuple[tuple[str, str], ...]

    @property
    def persona_id(self) -> str:
        """Content hash: the same persona is the same `user_id` under every prompt and in every run."""
        return f"persona-{hash_json([self.attributes, self.views])[:16]}"


@cache
def _library() -> dict[str, Any]:
    text = (files("transforms.generators.preferences") / "personas.v1.yaml").read_text(encoding="utf-8")
    library: dict[str, Any] = yaml.safe_load(text)
    return library


@cache
def library_id() -> str:
    """Hash of what personas are made of: attributes and exemplars."""
    return hash_json(_library())


def exemplar(contrast: str) -> Exemplar:
    """The built-in few-shot pair of a contrast."""
    return Exemplar(**_library()["exemplars"][contrast])


def view_contrasts() -> tuple[Contrast, ...]:
    """Contrasts that can be a persona's view: those with a measure and an exemplar."""
    return tuple(c for c in contrasts() if c.measure and c.name in _library()["exemplars"])


def persona(seed: int, index: int, views: int) -> Persona:
    """Persona `index` of the population that `seed` makes: one value per attribute, `views` distinct views."""

    def draw(*names: str) -> float:
        return unit_interval(str(seed), "persona", str(index), *names)

    attributes = tuple(
        (axis, values[int(draw(axis) * len(values))]) for axis, values in _library()["attributes"].items()
    )
    ranked = sorted(view_contrasts(), key=lambda c: draw("view", c.name))[:views]
    return Persona(attributes, tuple((c.name, "more" if draw("side", c.name) < 0.5 else "less") for c in ranked))


def favours_first(views: Sequence[tuple[str, str]], first: str, second: str) -> tuple[int, str | None]:
    """What the weightiest view that decides says: +1 for `first`, -1 for `second`, and that view's contrast.

    (0, None) if no view decides.
    """
    by_name = {c.name: c for c in contrasts()}
    for name, side in views:
        sign = by_name[name].favours_more(first, second)
        if sign:
            return (sign if side == "more" else -sign), name
    return 0, None


def population_spread(people: Sequence[Collection[tuple[str, str]]]) -> float | None:
    """Mean share of facts in which two people differ, in [0, 1]; None for fewer than two, or without facts.

    Args:
        people: what is true of each (an attribute's value, the side taken on a view), equally many facts a person.
    """
    n, facts = len(people), len(people[0]) if people else 0
    if n < 2 or not facts:
        return None
    counts = Counter(fact for person in people for fact in person)
    return 1.0 - sum(c * (c - 1) for c in counts.values()) / (n * (n - 1) * facts)


def label_entropy(labels: Sequence[str]) -> float:
    """Entropy in nats of the labels' empirical distribution; 0 when all agree or there are none (FSPO's coherence)."""
    counts = Counter(labels)
    return -sum(n / len(labels) * math.log(n / len(labels)) for n in counts.values()) + 0.0

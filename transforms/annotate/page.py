"""The annotator's page: a Label Studio labelling config made from the recipe, and its lint.

The open-source server accepts misspelt tags and references to nothing, so every config is checked here
against the tags that edition has and that are safe: only `Text` and `Paragraphs` escape model output
(`Markdown` runs scripts, `HyperText`, `List` and `Ranker` fetch remote images), so no other tag may
show a task's text. `Image` shows what was attached as an image, by its address.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import jinja2
from pydantic import Field, field_validator

from schemas.errors import RecipeError
from schemas.ids import hash_fields
from transforms.plugins.base import PluginConfig

LABELS = ("a", "b", "tie", "both_bad")
FLAGS = ("contains_pii", "prompt_unanswerable", "needs_expert")
MAX_RANKED = 9

_COLOURS = ("#2e7d32", "#c62828", "#6a1b9a", "#ef6c00", "#1565c0", "#4e342e")
_LAYOUT = {"View", "Style", "Header"}
_OBJECTS = {"Text", "Paragraphs", "Image"}
_CONTROLS = {"Labels", "Rating", "Choices", "TextArea"}
_PARTS = {"Label": "Labels", "Choice": "Choices"}


class PageConfig(PluginConfig):
    """What the page asks for."""

    aspects: list[str] = Field(default=["helpful", "honest", "harmless"], description="rated 1..5 on each response")
    span_kinds: list[str] = Field(default=["good", "factual_error", "unsafe", "style"])
    rationale_required: bool = False

    @field_validator("aspects", "span_kinds")
    @classmethod
    def _names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not (name.isascii() and name.replace("_", "").isalnum()):
                raise ValueError(f"{name!r}: use ASCII letters, digits and _")
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice")
        return names


def pairwise_page(config: PageConfig, *, context: bool, images: Collection[str] = ()) -> str:
    """The labelling config for pairs; with `context` it stands open above the responses.

    Args:
        images: where the page has room for attached images: `prompt`, `a`, `b`.
    """
    return _rendered(
        "pairwise.xml",
        context=context,
        images=images,
        aspects=config.aspects,
        span_kinds=config.span_kinds,
        rationale_required=config.rationale_required,
        flags=FLAGS,
        colours=_COLOURS,
    )


def ranking_page(n: int, *, context: bool) -> str:
    """The labelling config for ranking n responses at once, 2 to `MAX_RANKED`."""
    if not 2 <= n <= MAX_RANKED:
        raise RecipeError(f"a ranking page shows 2 to {MAX_RANKED} responses, not {n}")
    return _rendered("ranking.xml", n=n, context=context)


def page_version(xml: str) -> str:
    """Id of a config: one project per version, since a project with answers refuses another config."""
    return hash_fields("page", xml)


def lint(xml: str) -> list[str]:
    """What is wrong with a labelling config, one sentence each; empty if nothing."""
    try:
        root = _parsed(xml)
    except ET.ParseError as error:
        return [f"not XML: {error}"]
    names: dict[str, ET.Element] = {}
    problems: list[str] = []
    for element in root.iter():
        if element.tag not in _LAYOUT | _OBJECTS | _CONTROLS | set(_PARTS):
            problems.append(f"tag {element.tag} is not one that is known to exist and to be safe")
        name = element.get("name")
        if element.tag in _OBJECTS | _CONTROLS:
            if not name:
                problems.append(f"a {element.tag} has no name")
            elif name in names:
                problems.append(f"the name {name} is used twice")
            else:
                names[name] = element
    for element in root.iter():
        problems += _references(element, names)
    parents = {child: parent for parent in root.iter() for child in parent}
    problems += [
        f"{e.tag} {e.get('value')} is not inside {_PARTS[e.tag]}"
        for e in root.iter()
        if e.tag in _PARTS and parents[e].tag != _PARTS[e.tag]
    ]
    hotkeys = [e.get("hotkey") for e in root.iter() if e.get("hotkey")]
    problems += [f"hotkey {key} is used twice" for key in sorted({k for k in hotkeys if k and hotkeys.count(k) > 1})]
    return problems


def _references(element: ET.Element, names: dict[str, ET.Element]) -> list[str]:
    who = f"{element.tag} {element.get('name') or element.get('className') or ''}".strip()
    value = _field(element)
    problems = []
    if element.tag in _OBJECTS and not value.startswith("$"):
        problems.append(f"{who} shows no task field")
    if element.tag not in _OBJECTS and value.startswith("$"):
        problems.append(f"{who} shows the task field {value}; only {' and '.join(sorted(_OBJECTS))} escape it")
    if element.tag in _CONTROLS:
        target = names.get(element.get("toName", ""))
        if target is None or target.tag not in _OBJECTS:
            problems.append(f"{who} refers to {element.get('toName')!r}, which the page does not show")
    if element.get("whenTagName") is not None:
        source = names.get(element.get("whenTagName", ""))
        if source is None or source.tag != "Choices":
            problems.append(f"{who} waits for {element.get('whenTagName')!r}, which is no choice of the page")
        else:
            offered = {choice.get("value") for choice in source.iter("Choice")}
            absent = [v for v in element.get("whenChoiceValue", "").split(",") if v not in offered]
            problems += [f"{who} waits for the choice {v!r}, which {source.get('name')} lacks" for v in absent]
    return problems


def _field(element: ET.Element) -> str:
    """What an element shows; an `Image` may show a list."""
    return element.get("value", element.get("valueList", "") if element.tag == "Image" else "")


def _parsed(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314


def _rendered(template: Literal["pairwise.xml", "ranking.xml"], **values: object) -> str:
    xml = _environment().get_template(template).render(**values)
    xml = "\n".join(line for line in xml.splitlines() if line.strip())
    problems = lint(xml)
    if problems:
        raise RecipeError(f"the annotation page is wrong: {'; '.join(problems)}")
    return xml


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

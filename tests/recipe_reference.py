"""docs/recipe.md: every field of a recipe as the models declare it; `python -m tests.recipe_reference` writes it."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from schemas.recipe import (
    AnnotateSection,
    BeamSection,
    CallBudget,
    ExportUse,
    FuseSection,
    GenerateSection,
    JudgeSection,
    MaterialiseSection,
    PanelSection,
    Recipe,
    RouteSection,
    ScoreSection,
)
from tests.defaults import models_in
from transforms.hygiene.config import HygieneConfig
from transforms.plugins.registry import BASES, distribution_of, find, names
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig
from transforms.routers.queue.config import QueueConfig
from transforms.sources.config import HumanVotes, JudgeVotes, PairsSource, PromptsSource

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipe.md"
HEAD = """# The recipe, field by field

Written by `python -m tests.recipe_reference` from the models that check recipes; do not edit it. `prefine schema`
prints the same as JSON schema, for editors. What several fields mean together stands above their table. A field that is
left out is at its default; one that is required has none.

Where plug-ins are used: `engines: {NAME: {plugin: ...}}`, `generate.generators`, `judge.judges`, `score.scorers`,
`fuse.fuser`, `fuse.policy`, `route.router`, `materialise.exports: [{format: NAME, options: {...}}]`. Every use may have
a `name`.
"""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("the whole", Recipe),
    ("sources, kind: prompts", PromptsSource),
    ("sources, kind: pairs", PairsSource),
    ("votes of a source, kind: human", HumanVotes),
    ("votes of a source, kind: judge", JudgeVotes),
    ("hygiene", HygieneConfig),
    ("generate", GenerateSection),
    ("generate.budget and judge.budget", CallBudget),
    ("judge", JudgeSection),
    ("judge.panel", PanelSection),
    ("score", ScoreSection),
    ("fuse", FuseSection),
    ("route", RouteSection),
    ("route.queue", QueueConfig),
    ("annotate", AnnotateSection),
    ("materialise", MaterialiseSection),
    ("materialise.splits", SplitsConfig),
    ("materialise.rows", RowsConfig),
    ("materialise.exports", ExportUse),
    ("beam", BeamSection),
)


def page() -> str:
    """The text of docs/recipe.md."""
    return "\n".join([HEAD, *_sections(), *_plugins()])


def _sections() -> Iterator[str]:
    shown = {model for _, model in SECTIONS}
    yield "## Sections\n"
    for title, model in SECTIONS:
        yield from _model(f"### {title}", model, _prose(model))
        for inner in models_in_fields(model):
            if inner not in shown and not inner.__name__.startswith("PluginUse"):
                shown.add(inner)
                yield from _model(f"### {title}: {inner.__name__}", inner, _prose(inner))


def _plugins() -> Iterator[str]:
    for kind in BASES:
        yield f"## Plug-ins: {kind}\n"
        for name in names(kind):
            if distribution_of(kind, name) is None:
                plugin = find(kind, name)
                yield from _model(f"### {kind}: {name}", plugin.Config, f"{_prose(plugin)}")


def _model(title: str, model: type[BaseModel], prose: str) -> Iterator[str]:
    """Title, what the docstring says, and a table of the fields."""
    yield f"{title}\n"
    yield f"{prose}\n"
    beside = comments(model)
    if model.model_fields:
        yield "| field | type | default | |"
        yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        told = field.description or beside.get(name, "")
        yield f"| `{name}` | {_cell(type_words(field.annotation))} | {_cell(_default(field))} | {_cell(told)} |"
    yield ""


def _prose(cls: type) -> str:
    """The class's own docstring."""
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\nAttributes:")[0].strip()


def comments(model: type[BaseModel]) -> dict[str, str]:
    """What stands behind a field's declaration, after `#`, in the class that declares it."""
    beside: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            for name, text in re.findall(r"^ +(\w+): .*?  # (.+)$", inspect.getsource(cls), re.MULTILINE):
                beside[name] = text
    return beside


def models_in_fields(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that the fields' types mention."""
    for field in model.model_fields.values():
        yield from models_in(field.annotation)


def type_words(annotation: Any) -> str:
    """A type as a reader of YAML knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(part) for part in arguments))
    if origin in (list, tuple, set, frozenset):
        inner = [part for part in arguments if part is not Ellipsis]
        return f"list of {type_words(inner[0])}" if len(set(inner)) == 1 else "list"
    if origin is dict:
        return f"mapping to {type_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "plug-in" if annotation.__name__ == "PluginUse" else f"section {annotation.__name__}"
    words = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

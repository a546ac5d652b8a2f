"""Reading a recipe file: every error names file, line, field and the nearest valid name."""

from __future__ import annotations

import re
import typing
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import RecipeError, UsageError
from schemas.names import did_you_mean
from schemas.recipe import Recipe
from schemas.secrets import secret

Location = tuple[str | int, ...]
Fault = tuple[Location, str]  # where, and what is wrong

MAX_CHARS = 500_000
_MAX_NODES = 50_000
_MAX_DEPTH = 50
_MAX_NAME = 1000
_SHOWN_DEPTH = 6  # of a location that is far too deep to be shown


class RecipeFile:
    """A recipe with the text it came from, so that later checks can still name the line.

    Attributes:
        path: the file.
        text: its content.
        recipe: the validated recipe.
    """

    def __init__(self, path: Path, text: str, recipe: Recipe, lines: dict[Location, int]) -> None:
        self.path, self.text, self.recipe, self._lines = path, text, recipe, lines

    @property
    def base_dir(self) -> Path:
        """The folder relative paths in the recipe start from."""
        return self.path.parent

    def error(self, location: Location, text: str) -> RecipeError:
        """An error that names file, line and field."""
        return RecipeError(_located(self.path, self._lines, location, text))

    def validated(self, model: type[BaseModel], settings: dict[str, Any], location: Location) -> Any:
        """Validate plug-in settings that stand at `location`.

        Raises:
            RecipeError: unknown field, wrong type or value.
        """
        try:
            return model.model_validate(settings)
        except ValidationError as error:
            raise RecipeError(_explained(self.path, self._lines, error, model, location)) from None

    def environment_faults(self) -> list[Fault]:
        """Fields ending in `_env` whose environment variable is not set or holds no secret, and why."""
        faults = []
        for location, name in _environment_fields(self.recipe.model_dump(mode="json"), ()):
            # Of the fields that the recipe leaves out one may be needed, too: the token of the annotation server.
            if location in self._lines or location == ("annotate", "token_env"):
                try:
                    secret(name)
                except UsageError as error:
                    faults.append((location, str(error)))
        return faults


def load_recipe(path: Path) -> RecipeFile:
    """Read and validate a recipe.

    Raises:
        RecipeError: no such file, not YAML, too large, or a wrong field: with line, field and nearest valid name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = did_you_mean(path.name, (p.name for p in path.parent.glob("*.y*ml")))
        raise RecipeError(f"no recipe at {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from None
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> RecipeFile:
    """Validate a recipe's text; `path` is named in errors and anchors relative paths."""
    if len(text) > MAX_CHARS:
        raise RecipeError(f"{path}: {len(text):,} characters; a recipe has at most {MAX_CHARS:,}")
    lines: dict[Location, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        fault = _number(node, (), lines)  # before anything is built: aliases in aliases can stand for millions of nodes
        value = None if fault or node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise RecipeError(f"{where}: not valid YAML: {problem}") from None
    fault = fault or _unstorable(value, ())
    if fault:
        raise RecipeError(_located(path, lines, *fault))
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RecipeError(f"{path}:1: a recipe is a mapping of sections (name, sources, judge, ...), not {kind}")
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise RecipeError(_explained(path, lines, error, Recipe, ())) from None
    return RecipeFile(path, text, recipe, lines)


def _number(node: yaml.Node | None, location: Location, lines: dict[Location, int]) -> Fault | None:
    """Note the line number of every location of the YAML tree; what is wrong with its shape, or None."""
    if node is None:
        return None
    if len(location) > _MAX_DEPTH:
        return location[:_SHOWN_DEPTH], f"nested deeper than {_MAX_DEPTH} levels, or an alias that stands in itself"
    if len(lines) > _MAX_NODES:
        return location[:_SHOWN_DEPTH], f"more than {_MAX_NODES:,} values with all aliases written out"
    lines.setdefault(location, node.start_mark.line + 1)
    children: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, child) for key, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, child, child) for index, child in enumerate(node.value)]
    for name, marked, child in children:
        if len(str(name)) > _MAX_NAME:
            return location, f"a name of more than {_MAX_NAME} characters"
        inner = (*location, name)
        if inner in lines:
            return (
                inner,
                f"stands in line {lines[inner]} and again in line {marked.start_mark.line + 1}; keep one of them",
            )
        lines[inner] = marked.start_mark.line + 1
        fault = _number(child, inner, lines)
        if fault:
            return fault
    return None


def _unstorable(value: Any, location: Location) -> Fault | None:
    """The first value that JSON, and with it the recipe's hash, cannot hold; None if there is none."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = key if isinstance(key, (str, int)) else str(key)
            fault = _unstorable(key, location) or _unstorable(item, (*location, name))
            if fault:
                return fault
    elif isinstance(value, list):
        for index, item in enumerate(value):
            fault = _unstorable(item, (*location, index))
            if fault:
                return fault
    elif isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            return location, "holds half a character (a lone surrogate); write the character itself"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return location, "is a number of more than 64 bits"
    elif value is not None and not isinstance(value, (bool, int, float, date)):
        return location, f"is of YAML type {type(value).__name__}; use text, numbers, lists and mappings"
    return None


def _located(path: Path, lines: dict[Location, int], location: Location, text: str) -> str:
    known = location
    while known and known not in lines:
        known = known[:-1]
    field = ".".join(str(part) for part in location) or "recipe"
    return f"{path}:{lines.get(known, 1)}: {field}: {text}"


def _explained(
    path: Path, lines: dict[Location, int], error: ValidationError, model: type[BaseModel], prefix: Location
) -> str:
    """All validation errors, a line each, with file, line, field and fix."""
    out = []
    for item in error.errors():
        location = prefix + tuple(part for part in item["loc"] if not _is_tag(part))
        text = str(item["msg"]).removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            text = "unknown field" + did_you_mean(str(item["loc"][-1]), fields)
            text += f" Known: {', '.join(sorted(fields))}" if fields else ""
        elif item["type"] == "missing":
            text = "is required"
        elif item["type"] != "value_error":
            text += f", not {_shown(item['input'])}"
        out.append(_located(path, lines, location, text))
    return "\n".join(out)


def _is_tag(part: str | int) -> bool:
    """Pydantic puts the tag or type of a union's member into the location; it is not a field."""
    return isinstance(part, str) and bool(re.search(r"[\[\]()]|^function-|^tagged-", part))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Field names of the model a location leads to; [] if it cannot be told."""
    current: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        info = current.model_fields.get(part)
        if info is None:
            continue
        current = _model_in(info.annotation)
        if current is None:
            return []
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        model = _model_in(argument)
        if model is not None:
            return model
    return None


def _environment_fields(value: Any, location: Location) -> list[tuple[Location, str]]:
    """Every environment variable that a field ending in `_env` names, alone or as the values of a mapping."""
    if isinstance(value, dict):
        fields: list[tuple[Location, str]] = []
        for key, item in value.items():
            where = (*location, key)
            if key.endswith("_env") and isinstance(item, str):
                fields.append((where, item))
            elif key.endswith("_env") and isinstance(item, dict):
                fields += [((*where, name), variable) for name, variable in item.items() if isinstance(variable, str)]
            else:
                fields += _environment_fields(item, where)
        return fields
    if isinstance(value, list):
        return [f for index, v in enumerate(value) for f in _environment_fields(v, (*location, index))]
    return []

"""The JSON schema of a recipe: its sections, and the settings of every plug-in that is installed."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.recipe import Recipe
from transforms.hygiene.config import HygieneConfig
from transforms.plugins.registry import BASES, find, names
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig
from transforms.routers.queue.config import QueueConfig
from transforms.sources.config import PairsSource, PromptsSource

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"
# Sections whose models lie beside the code that obeys them: where they stand in the recipe's own schema.
SECTIONS: dict[tuple[str, str], type[BaseModel]] = {
    ("Recipe", "hygiene"): HygieneConfig,
    ("RouteSection", "queue"): QueueConfig,
    ("MaterialiseSection", "splits"): SplitsConfig,
    ("MaterialiseSection", "rows"): RowsConfig,
}
# Where plug-ins of a kind are used: the section's model and its field.
USES = {
    "engines": ("Recipe", "engines"),
    "generators": ("GenerateSection", "generators"),
    "judges": ("JudgeSection", "judges"),
    "scorers": ("ScoreSection", "scorers"),
    "fusers": ("FuseSection", "fuser"),
    "policies": ("FuseSection", "policy"),
    "routers": ("RouteSection", "router"),
}
_NAME = {"type": "string", "description": "name of this use; by default the plug-in's"}


def recipe_schema() -> dict[str, Any]:
    """The schema, as plain JSON: what it refuses a recipe may not say; what needs several fields at once it allows."""
    definitions = _definitions([Recipe, PromptsSource, PairsSource, *SECTIONS.values()])
    for (model, field), section in SECTIONS.items():
        definitions[model]["properties"][field] = _kept(definitions[model]["properties"][field], _ref(section.__name__))
    for kind in BASES:
        for name in names(kind):
            definitions |= _plugin_definitions(kind, name)
    for kind, (model, field) in USES.items():
        uses = {"oneOf": [_ref(_definition(kind, name)) for name in names(kind)]}
        definitions[model]["properties"][field] = _within(definitions[model]["properties"][field], uses)
    sources = {"oneOf": [_ref("PromptsSource"), _ref("PairsSource")]}
    definitions["Recipe"]["properties"]["sources"]["items"] = sources
    definitions["ExportUse"] = {"oneOf": [_ref(_definition("exporters", name)) for name in names("exporters")]}
    recipe = definitions.pop("Recipe")
    return {"$schema": DIALECT, **recipe, "title": "prefine recipe", "$defs": dict(sorted(definitions.items()))}


def _plugin_definitions(kind: str, name: str) -> dict[str, Any]:
    """The definition of a plug-in's use, and of the models that its settings mention under names of their own."""
    plugin = find(kind, name)
    prefix = _definition(kind, name)
    settings = plugin.Config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    inner = {f"{prefix}.{model}": schema for model, schema in settings.pop("$defs", {}).items()}
    summary = (plugin.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    properties = settings.get("properties", {})
    required = settings.get("required", [])
    whole = {"type": "object", "title": name, "description": " ".join(summary.split()), "additionalProperties": False}
    if kind == "exporters":
        options = {"type": "object", "properties": {"name": _NAME, **properties}, "additionalProperties": False}
        use = {"format": {"const": name}, "options": {**options, **({"required": required} if required else {})}}
        return {prefix: {**whole, "properties": use, "required": ["format"]}, **inner}
    use = {"plugin": {"const": name}, "name": _NAME, **properties}
    return {prefix: {**whole, "properties": use, "required": ["plugin", *required]}, **inner}


def _definitions(models: list[type[BaseModel]]) -> dict[str, Any]:
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _definition(kind: str, name: str) -> str:
    return f"{kind}.{name}"


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


def _kept(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the field's own description and default."""
    return {**schema, **{key: field[key] for key in ("description", "default") if key in field}}


def _within(field: dict[str, Any], uses: dict[str, Any]) -> dict[str, Any]:
    """The field with `uses` for what it holds: one use, a list of them, or uses by name."""
    if field.get("type") == "array":
        return {**field, "items": uses}
    if field.get("type") == "object":
        return {**field, "additionalProperties": uses}
    return _kept(field, uses)

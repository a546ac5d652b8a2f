"""The hash of what a recipe means for its dataset."""

from __future__ import annotations

from pydantic import BaseModel

from schemas.ids import hash_json
from schemas.recipe import Recipe
from transforms.hygiene.config import HygieneConfig
from transforms.plugins.base import PluginConfig
from transforms.plugins.build import plugin_uses
from transforms.plugins.registry import find
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig
from transforms.sources.config import SOURCE_ADAPTER

_FIELDS = {"name", "seed", "generate", "judge", "score", "fuse", "materialise"}
_ELSEWHERE = {  # parts that have models of their own, or change no row
    "generate": {"generators"},
    "judge": {"judges"},
    "score": {"scorers"},
    "fuse": {"fuser", "policy"},
    "materialise": {"splits", "rows", "exports"},
}


def recipe_hash(recipe: Recipe) -> str:
    """Hash of what in a recipe can change its dataset: comments, layout and settings at their default do not count.

    Raises:
        UsageError: a plug-in that this code does not have.
        ValidationError: settings that it does not have.
    """
    settings = recipe.model_dump(mode="json", include=_FIELDS, exclude=_ELSEWHERE, exclude_defaults=True)
    parts: dict[str, BaseModel] = {
        "hygiene": HygieneConfig.model_validate(recipe.hygiene),
        "materialise.splits": SplitsConfig.model_validate(recipe.materialise.splits),
        "materialise.rows": RowsConfig.model_validate(recipe.materialise.rows),
    }
    for number, source in enumerate(recipe.sources):
        parts[f"sources.{number}"] = SOURCE_ADAPTER.validate_python(source)
    names = {}
    for kind, place, use in plugin_uses(recipe):
        if kind not in ("routers", "exporters"):
            where = ".".join(map(str, place))
            parts[where] = find(kind, use.plugin).Config.model_validate(use.settings)
            names[where] = [use.plugin, use.name]
    own = {
        where: part.model_dump(
            mode="json",
            exclude_defaults=True,
            exclude=set(part.unhashed) if isinstance(part, PluginConfig) else None,
        )
        for where, part in parts.items()
    }
    sections = {name: section for name, section in settings.items() if section != {}}
    return hash_json([sections, names, own])

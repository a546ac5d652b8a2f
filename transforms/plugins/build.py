"""From recipe to plug-ins: find each by name, validate its settings, give it its engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from schemas.errors import RecipeError, UsageError
from schemas.names import did_you_mean
from schemas.recipe import PluginUse, Recipe
from schemas.recipe_file import Location, RecipeFile
from transforms.hygiene.config import HygieneConfig
from transforms.plugins.base import Plugin, PluginConfig
from transforms.plugins.registry import find
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig
from transforms.routers.queue.config import QueueConfig
from transforms.sources.check import check_sources

P = TypeVar("P", bound=Plugin)


def build(kind: type[P], use: PluginUse, seed: int, folder: Path) -> P:
    """An instance of the plug-in that `use` names.

    Args:
        kind: the base class of its kind.
        use: what the recipe says.
        seed: the recipe's.
        folder: where relative paths in the settings start, the recipe's.

    Raises:
        UsageError: unknown plug-in or wrong settings (recipe files are checked by `check_recipe`, which
            also names the line).
    """
    return find(kind, use.plugin)(use.name, settings_of(kind, use).with_paths_from(folder), seed)


def settings_of(kind: type[Plugin], use: PluginUse) -> PluginConfig:
    """The settings of a use, validated.

    Raises:
        UsageError: unknown plug-in or wrong settings.
    """
    try:
        return find(kind, use.plugin).Config.model_validate(use.settings)
    except ValidationError as error:
        raise UsageError(f"{kind.kind} {use.name}: {error}") from None


def engine_names(kind: type[Plugin], uses: Iterable[PluginUse]) -> list[str]:
    """The engines that these uses ask, each once, sorted."""
    return sorted({name for use in uses for name in settings_of(kind, use).engine_names()})


def plugin_uses(recipe: Recipe) -> Iterator[tuple[str, Location, PluginUse]]:
    """Every plug-in use of a recipe with its kind and place."""
    for name, use in recipe.engines.items():
        yield "engines", ("engines", name), use
    for index, use in enumerate(recipe.generate.generators):
        yield "generators", ("generate", "generators", index), use
    for index, use in enumerate(recipe.judge.judges):
        yield "judges", ("judge", "judges", index), use
    for index, use in enumerate(recipe.score.scorers):
        yield "scorers", ("score", "scorers", index), use
    yield "fusers", ("fuse", "fuser"), recipe.fuse.fuser
    yield "policies", ("fuse", "policy"), recipe.fuse.policy
    yield "routers", ("route", "router"), recipe.route.router
    for index, export in enumerate(recipe.materialise.exports):
        yield "exporters", ("materialise", "exports", index), export.use


def check_recipe(file: RecipeFile) -> None:
    """Check a recipe's sources, and of every plug-in use that it exists, its settings fit, its engines are declared.

    Raises:
        RecipeError: with file, line, field and the nearest valid name.
    """
    check_sources(file)
    _check_sections(file)
    seen: dict[tuple[str, str], Location] = {}
    for kind, location, use in plugin_uses(file.recipe):
        field = "format" if kind == "exporters" else "plugin"
        try:
            plugin = find(kind, use.plugin)
        except UsageError as error:
            raise file.error((*location, field), str(error)) from None
        where = (*location, "options") if kind == "exporters" else location
        config: PluginConfig = file.validated(plugin.Config, use.settings, where)
        _check_paths(file, config, where)
        for where_field, engine in config.named_engines():
            if engine not in file.recipe.engines:
                hint = did_you_mean(engine, file.recipe.engines)
                known = ", ".join(sorted(file.recipe.engines)) or "none"
                raise file.error((*location, where_field), f"no engine named {engine!r}{hint} Declared: {known}")
        if kind in ("generators", "judges", "scorers", "exporters"):
            group = "voters" if kind in ("judges", "scorers") else kind
            folder = use.name.casefold()  # names that differ in case alone are one folder on some disks
            if (group, folder) in seen:
                raise file.error((*where, "name"), f"the name {use.name!r} is used twice; give this one another name")
            seen[group, folder] = location


def _check_sections(file: RecipeFile) -> None:
    """Sections whose models live beside the code that obeys them."""
    recipe = file.recipe
    hygiene = file.validated(HygieneConfig, recipe.hygiene, ("hygiene",))
    if hygiene.decontamination is not None:
        _check_paths(file, hygiene.decontamination, ("hygiene", "decontamination"))
    for index, path in enumerate(recipe.annotate.files):
        _check_path(file, path, ("annotate", "files", index))
    file.validated(QueueConfig, recipe.route.queue, ("route", "queue"))
    file.validated(SplitsConfig, recipe.materialise.splits, ("materialise", "splits"))
    file.validated(RowsConfig, recipe.materialise.rows, ("materialise", "rows"))


def _check_paths(file: RecipeFile, config: PluginConfig, location: Location) -> None:
    """The files that a plug-in's settings name."""
    for field in config.path_fields:
        value = getattr(config, field)
        if isinstance(value, str):
            _check_path(file, value, (*location, field))
        for index, path in enumerate(value if isinstance(value, (tuple, list)) else ()):
            _check_path(file, path, (*location, field, index))


def _check_path(file: RecipeFile, given: str, location: Location) -> None:
    if given.startswith("datasets:"):
        return
    path = file.base_dir / Path(given).expanduser()
    if not path.is_file():
        hint = did_you_mean(path.name, (p.name for p in path.parent.glob("*") if p.is_file()))
        raise file.error(location, f"no file at {given!r} (looked at {path}){hint}")


def check_environment(file: RecipeFile) -> None:
    """Check that every environment variable the recipe needs is set and holds a secret.

    Raises:
        RecipeError: a line for each that is not; never with its value.
    """
    faults = [
        str(file.error(location, text))
        for location, text in file.environment_faults()
        if location[0] != "annotate" or file.recipe.annotate.plugin == "label_studio"
    ]
    if faults:
        raise RecipeError("\n".join(faults))

"""What every plug-in is, whatever its kind.

A plug-in is a class with a pydantic `Config`; a recipe's use of it is an instance, built as `cls(name, config, seed)`.
Each kind has a base class in `transforms/<kind>/base.py` that says what a plug-in of that kind must have and gives
every hook a default.
"""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from transforms.storage.files import file_sha256


class PluginConfig(BaseModel):
    """Base of every plug-in's `Config`: unknown fields are errors, instances are immutable.

    Attributes:
        path_fields: fields that hold paths; the identity holds the files' content, not the paths.
        engine_fields: fields that hold names of engines; absent ones are ignored.
        unhashed: fields that change where or how fast something is computed, never what comes out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path_fields: ClassVar[tuple[str, ...]] = ()
    engine_fields: ClassVar[tuple[str, ...]] = ("engine", "engines")
    unhashed: ClassVar[frozenset[str]] = frozenset()

    def with_paths_from(self, folder: Path) -> Self:
        """The settings with the relative paths in `path_fields` starting from `folder`; `datasets:` names stay."""

        def located(value: Any) -> Any:
            if isinstance(value, str):
                return value if value.startswith("datasets:") else str(folder / Path(value).expanduser())
            return tuple(map(located, value)) if isinstance(value, tuple) else value

        return self.model_copy(update={name: located(getattr(self, name)) for name in self.path_fields})

    def named_engines(self) -> list[tuple[str, str]]:
        """The engines these settings name, as (field, engine name), in the order of the fields."""
        engines: list[tuple[str, str]] = []
        for field in self.engine_fields:
            value = getattr(self, field, None)
            engines += [(field, str(name)) for name in _listed(value) if name is not None]
        return engines

    def engine_names(self) -> list[str]:
        """Every engine these settings name, each once, sorted."""
        return sorted({name for _, name in self.named_engines()})

    def file_hashes(self) -> dict[str, list[str]]:
        """Hashes of what the files in `path_fields` hold; of a `datasets:` name the name."""
        return {field: [_content(path) for path in _listed(getattr(self, field))] for field in self.path_fields}

    def own_settings(self) -> dict[str, Any]:
        """The settings that can change the output and are not at their default, as plain JSON.

        A new setting whose default is the old behaviour therefore changes no identity. Whoever changes a default
        gives the plug-in another version; `tests/defaults.json` records the defaults.
        """
        return self.model_dump(mode="json", exclude_defaults=True, exclude={*self.path_fields, *self.unhashed})


class Plugin(ABC):
    """One use of a plug-in in a recipe.

    Attributes:
        kind: the folder of its kind, such as `judges`; set by the kind's base class.
        plugin_name: the name recipes use; set where the class is registered.
        version: of what it computes; raised with every change that gives other results from the same settings.
        distribution: name and version of the package it comes from; None for prefine's own.
        name: the recipe's name for this use.
        config: the settings, an instance of `Config`.
        seed: the recipe's seed.
    """

    kind: ClassVar[str]
    plugin_name: ClassVar[str]
    version: ClassVar[int] = 1
    distribution: ClassVar[tuple[str, str] | None] = None
    Config: ClassVar[type[PluginConfig]] = PluginConfig
    config: PluginConfig

    def __init__(self, name: str, config: PluginConfig, seed: int) -> None:
        self.name = name
        self.config = config
        self.seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        """All that can change the output besides the input, as plain JSON: part of every checkpoint's key."""
        own: dict[str, Any] = {
            "plugin": self.plugin_name,
            "version": self.version,
            "settings": self.config.own_settings(),
        }
        if self.config.path_fields:
            own["files"] = self.config.file_hashes()
        if self.distribution is not None:
            own["distribution"] = list(self.distribution)
        return own


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _content(path: str | None) -> str:
    if path is None or path.startswith("datasets:"):
        return path or ""
    return file_sha256(Path(path))

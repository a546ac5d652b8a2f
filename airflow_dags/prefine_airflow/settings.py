"""What is curated, when and where: one YAML file, checked field by field while DAG files are parsed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FILE_VARIABLE = "PREFINE_CURATION"
DEFAULT_FILE = Path(__file__).resolve().parent.parent / "curation.yaml"
KINDS = ("local", "docker", "kubernetes")
STAGES = ("ingest", "generate", "clean", "judge", "score", "fuse", "route", "push", "pull", "materialise", "export")
GPU_POOL, CPU_POOL = "prefine_gpu", "prefine_cpu"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SettingsError(ValueError):
    """The file is wrong; the text names file, field and what is expected."""


@dataclass(frozen=True)
class Place:
    """Where CLI calls run.

    Attributes:
        kind: `local` (an executable on the worker), `docker` or `kubernetes` (a container image).
        prefine: the words before the subcommand.
        options: further arguments of the container operator (image, mounts, namespace, ...).
    """

    kind: str = "local"
    prefine: tuple[str, ...] = ("prefine",)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """When the wait for people ends.

    Attributes:
        enough: share of the answers asked for, above 0 up to 1.
        hours: at most this long after the push; 0 does not wait.
        poll_minutes: time between two looks.
    """

    enough: float = 0.9
    hours: float = 72.0
    poll_minutes: float = 10.0


@dataclass(frozen=True)
class StageSettings:
    """How one stage runs: its pool, its time limit, further arguments of the container operator."""

    pool: str
    timeout_hours: float = 12.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One recipe that is curated by a DAG of its own.

    Attributes:
        name: in DAG ids.
        recipe: path of the recipe where the calls run.
        workspace: folder or URL of the workspace.
        dataset: what the recipe publishes; by default `name`.
        schedule: cron expression, or None for manual runs only.
        formats: exporters run for every version.
        exports: folder or the exports; by default `exports` in the workspace.
        budget: answers to ask people for in total; None for the recipe's own budget.
        limit: rows read of every source; None for all.
        labels: when the wait for people ends.
        sign_off: whether a person must approve every release.
        sign_off_hours: without an answer after this long, nothing is released.
        late_hours: an alert is raised when a run takes longer; 0 for never.
        keep: versions kept by the weekly maintenance.
        retries: tries after the first one.
        retry_minutes: pause before the first retry; doubled every time.
        stages: settings by stage.
        env: environment variables of every call; templates.
    """

    name: str
    recipe: str
    workspace: str
    dataset: str
    place: Place
    schedule: str | None = None
    formats: tuple[str, ...] = ("trl-dpo",)
    exports: str = ""
    budget: int | None = None
    limit: int | None = None
    labels: Labels = Labels()
    sign_off: bool = False
    sign_off_hours: float = 24.0
    late_hours: float = 24.0
    keep: int = 10
    retries: int = 3
    retry_minutes: float = 2.0
    stages: Mapping[str, StageSettings] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def stage(self, name: str) -> StageSettings:
        """Settings of a stage; those that ask models run in the GPU's pool."""
        usual = GPU_POOL if name in ("generate", "judge") else CPU_POOL
        return self.stages.get(name, StageSettings(usual))


def load(path: Path | None = None) -> list[Recipe]:
    """Read the settings file.

    Raises:
        SettingsError: it is missing or wrong.
    """
    path = path or Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("recipes"), list) or not value["recipes"]:
        raise SettingsError(f"{path}: expected a list `recipes` with at least one recipe")
    _known(path, "", value, ("place", "env", "recipes"))
    place = _place(path, value.get("place") or {})
    env = {str(k): str(v) for k, v in (value.get("env") or {}).items()}
    recipes = [_recipe(path, f"recipes[{i}]", row, place, env) for i, row in enumerate(value["recipes"])]
    for what in ("name", "dataset"):
        names = [getattr(recipe, what) for recipe in recipes]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingsError(f"{path}: {what} {', '.join(sorted(twice))} is used by several recipes")
    return recipes


def _recipe(path: Path, where: str, row: Any, place: Place, env: Mapping[str, str]) -> Recipe:
    if not isinstance(row, dict):
        raise SettingsError(f"{path}: {where}: expected a mapping")
    _known(path, where, row, [f.name for f in fields(Recipe) if f.name != "place"])
    for name in ("name", "recipe", "workspace"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise SettingsError(f"{path}: {where}.{name}: expected a text")
    for name in ("name", "dataset"):
        if not _NAME.fullmatch(str(row.get(name, "x"))):
            raise SettingsError(f"{path}: {where}.{name}: expected lower-case letters, digits, - and _")
    values = {"dataset": row["name"], **row}
    for name in ("recipe", "workspace", "exports"):
        values[name] = _path(path, place, str(values.get(name) or ""))
    values["exports"] = values["exports"] or f"{values['workspace'].rstrip('/')}/exports"
    values["formats"] = tuple(values.get("formats", Recipe.formats))
    values["labels"] = _section(path, f"{where}.labels", Labels, row.get("labels") or {})
    if not 0 < values["labels"].enough <= 1:
        raise SettingsError(f"{path}: {where}.labels.enough: expected a share above 0, at most 1")
    _known(path, f"{where}.stages", row.get("stages") or {}, STAGES)
    values["stages"] = {
        name: _section(path, f"{where}.stages.{name}", StageSettings, {"pool": CPU_POOL, **settings})
        for name, settings in (row.get("stages") or {}).items()
    }
    values["env"] = {**env, **{str(k): str(v) for k, v in (row.get("env") or {}).items()}}
    return Recipe(place=place, **values)


def _place(path: Path, row: dict[str, Any]) -> Place:
    kind = row.get("kind", "local")
    if kind not in KINDS:
        raise SettingsError(f"{path}: place.kind: {kind!r} is none of {', '.join(KINDS)}")
    words = row.get("prefine", "prefine")
    words = [words] if isinstance(words, str) else list(words)
    options = {k: v for k, v in row.items() if k not in ("kind", "prefine")}
    if kind == "local" and options:
        raise SettingsError(f"{path}: place.{min(options)}: only containers have options")
    if kind != "local" and "image" not in options:
        raise SettingsError(f"{path}: place.image: expected the image to run")
    if kind == "local" and "/" in words[0]:
        words[0] = os.path.normpath(path.resolve().parent / words[0])
    return Place(kind, tuple(words), options)


def _path(path: Path, place: Place, name: str) -> str:
    """Relative paths start at the settings file; a container's paths and URLs stay as they are."""
    if not name or place.kind != "local" or "://" in name:
        return name
    return os.path.normpath(path.resolve().parent / name)


def _section(path: Path, where: str, kind: Any, row: dict[str, Any]) -> Any:
    _known(path, where, row, [f.name for f in fields(kind)])
    return kind(**row)


def _known(path: Path, where: str, row: Mapping[str, Any], names: Any) -> None:
    if unknown := sorted(set(row) - set(names)):
        raise SettingsError(f"{path}: {where}: unknown field {unknown[0]!r}; known: {', '.join(names)}")

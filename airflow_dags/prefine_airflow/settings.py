"""What is curated, when and where: one YAML file, checked field by field while DAG files are parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prefine_airflow.fields import (
    ENVIRONMENT,
    FLAG,
    FOLDERS,
    MAPPING,
    NAME,
    SCHEDULE,
    TEXT,
    YAML_FILE,
    SettingsError,
    checked,
    known,
    number,
    section,
    whole,
)

FILE_VARIABLE = "PREFINE_CURATION"
DEFAULT_FILE = Path(__file__).resolve().parent.parent / "curation.yaml"
KINDS = ("local", "docker", "kubernetes")
STAGES = ("ingest", "generate", "clean", "judge", "score", "fuse", "route", "push", "pull", "materialise", "export")
GPU_POOL, CPU_POOL = "prefine_gpu", "prefine_cpu"
ASK_MODELS = ("generate", "judge")


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

    enough: float = checked(number(0, above=True, most=1), 0.9)
    hours: float = checked(number(0), 72.0)
    poll_minutes: float = checked(number(0, above=True), 10.0)


@dataclass(frozen=True)
class StageSettings:
    """How one stage runs.

    Attributes:
        pool: Airflow's pool; empty for the stage's usual one.
        timeout_hours: the call is ended after this long.
        options: further arguments of the container operator.
    """

    pool: str = checked(TEXT, "")
    timeout_hours: float = checked(number(0, above=True), 12.0)
    options: Mapping[str, Any] = checked(MAPPING, factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One recipe that is curated by a DAG of its own.

    Attributes:
        place: where its calls run.
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

    place: Place
    name: str = checked(NAME)
    recipe: str = checked(YAML_FILE)
    workspace: str = checked(TEXT)
    dataset: str = checked(NAME)
    schedule: str | None = checked(SCHEDULE, None)
    formats: tuple[str, ...] = checked(FOLDERS, ("trl-dpo",))
    exports: str = checked(TEXT, "")
    budget: int | None = checked(whole(1, optional=True), None)
    limit: int | None = checked(whole(1, optional=True), None)
    labels: Labels = checked(MAPPING, factory=Labels)  # noqa: RUF009  makes a field
    sign_off: bool = checked(FLAG, False)
    sign_off_hours: float = checked(number(0, above=True), 24.0)
    late_hours: float = checked(number(0), 24.0)
    keep: int = checked(whole(1), 10)
    retries: int = checked(whole(0), 3)
    retry_minutes: float = checked(number(0, above=True), 2.0)
    stages: Mapping[str, StageSettings] = checked(MAPPING, factory=dict)
    env: Mapping[str, str] = checked(ENVIRONMENT, factory=dict)

    def stage(self, name: str) -> StageSettings:
        """Settings of a stage; those that ask models run in the GPU's pool unless they name another."""
        given = self.stages.get(name, StageSettings())
        usual = GPU_POOL if name in ASK_MODELS else CPU_POOL
        return StageSettings(given.pool or usual, given.timeout_hours, given.options)


@dataclass(frozen=True)
class Curation:
    """What a settings file says.

    Attributes:
        path: the file.
        recipes: those that can be curated.
        errors: what is wrong with the others, each naming file and field.
    """

    path: Path
    recipes: tuple[Recipe, ...]
    errors: tuple[str, ...] = ()


def load(path: Path | None = None) -> Curation:
    """Read the settings file.

    A wrong recipe does not stop the others; of two that want one name or dataset the first has it.

    Raises:
        SettingsError: the file is missing, or wrong in what all recipes share.
    """
    path = path or Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("recipes"), list) or not value["recipes"]:
        raise SettingsError(f"{path}: expected a list `recipes` with at least one recipe")
    known(path, "", value, ("place", "env", "recipes"))
    place = _place(path, value.get("place") or {})
    if not ENVIRONMENT.holds(value.get("env") or {}):
        raise SettingsError(f"{path}: env: expected {ENVIRONMENT.expected}")
    recipes: list[Recipe] = []
    errors = []
    for index, row in enumerate(value["recipes"]):
        where = f"recipes[{index}]"
        try:
            recipe = _recipe(path, where, row, place, value.get("env") or {})
            for what in ("name", "dataset"):
                if getattr(recipe, what) in [getattr(other, what) for other in recipes]:
                    raise SettingsError(f"{path}: {where}.{what}: {getattr(recipe, what)} is used by several recipes")
            recipes.append(recipe)
        except SettingsError as error:
            errors.append(str(error))
    return Curation(path, tuple(recipes), tuple(errors))


def _recipe(path: Path, where: str, row: Any, place: Place, env: Mapping[str, Any]) -> Recipe:
    values = section(path, where, Recipe, row, ("name", "recipe", "workspace"))
    values = {"dataset": values["name"], **values}
    for name in ("recipe", "workspace", "exports"):
        values[name] = _path(path, place, values.get(name, ""))
    values["exports"] = values["exports"] or f"{values['workspace'].rstrip('/')}/exports"
    values["formats"] = tuple(values.get("formats", Recipe.formats))
    values["labels"] = Labels(**section(path, f"{where}.labels", Labels, values.get("labels")))
    stages = values.get("stages") or {}
    known(path, f"{where}.stages", stages, STAGES)
    values["stages"] = {
        name: StageSettings(**section(path, f"{where}.stages.{name}", StageSettings, given))
        for name, given in stages.items()
    }
    for name, given in values["stages"].items():
        if given.options and place.kind == "local":
            raise SettingsError(f"{path}: {where}.stages.{name}.options: only containers have options")
    values["env"] = {name: str(text) for name, text in {**env, **values.get("env", {})}.items()}
    return Recipe(place=place, **values)


def _place(path: Path, row: Any) -> Place:
    if not isinstance(row, dict):
        raise SettingsError(f"{path}: place: expected a mapping, not {row!r}")
    kind = row.get("kind", "local")
    if kind not in KINDS:
        raise SettingsError(f"{path}: place.kind: {kind!r} is none of {', '.join(KINDS)}")
    words = row.get("prefine", "prefine")
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not words or not all(TEXT.holds(word) for word in words):
        raise SettingsError(f"{path}: place.prefine: expected an executable, or a list of words")
    options = {k: v for k, v in row.items() if k not in ("kind", "prefine")}
    if kind == "local" and options:
        raise SettingsError(f"{path}: place.{min(map(str, options))}: only containers have options")
    if kind != "local" and not TEXT.holds(options.get("image")):
        raise SettingsError(f"{path}: place.image: expected the image to run")
    if kind == "local" and "/" in words[0]:
        words = [os.path.normpath(path.resolve().parent / words[0]), *words[1:]]
    return Place(kind, tuple(words), options)


def _path(path: Path, place: Place, name: str) -> str:
    """Relative paths start at the settings file; a container's paths and URLs stay as they are."""
    if not name or place.kind != "local" or "://" in name:
        return name
    return os.path.normpath(path.resolve().parent / name)

"""What is curated, when and where: one YAML file, validated by pydantic while DAG files are parsed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from prefine_airflow.fields import (
    MOST,
    Count,
    Environment,
    Folders,
    Name,
    NotNegative,
    Positive,
    Schedule,
    Section,
    SettingsError,
    Text,
    YamlFile,
    must,
    validated,
    wrong,
)

FILE_VARIABLE = "PREFINE_CURATION"
DEFAULT_FILE = Path(__file__).resolve().parent.parent / "curation.yaml"
Stage = Literal[
    "ingest", "generate", "clean", "judge", "score", "fuse", "route", "push", "pull", "materialise", "export"
]
STAGES: tuple[str, ...] = get_args(Stage)
GPU_POOL, CPU_POOL = "prefine_gpu", "prefine_cpu"
ASK_MODELS = ("generate", "judge")


class Place(Section):
    """Where CLI calls run.

    Attributes:
        kind: `local` (an executable on the worker), `docker` or `kubernetes` (a container image).
        prefine: the words before the subcommand.
        options: all other fields, further arguments of the container operator (image, mounts, namespace, ...).
    """

    kind: Literal["local", "docker", "kubernetes"] = "local"
    prefine: Annotated[
        tuple[Text, ...],
        Field(strict=False),  # a list in the file
        BeforeValidator(lambda words: [words] if isinstance(words, str) else words),
        must(bool, "an executable, or a list of words"),
    ] = ("prefine",)
    options: Mapping[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _other_fields_are_options(cls, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        own = {name: row[name] for name in ("kind", "prefine") if name in row}
        return own | {"options": {name: value for name, value in row.items() if name not in own}}

    @field_validator("prefine")
    @classmethod
    def _from_the_file(cls, words: tuple[str, ...], info: Any) -> tuple[str, ...]:
        is_path = info.data.get("kind") == "local" and "/" in words[0]
        return (info.context.located(words[0]), *words[1:]) if is_path else words

    @model_validator(mode="after")
    def _containers_have_an_image(self) -> Place:
        if self.kind == "local" and self.options:
            raise wrong("only containers have options", min(self.options))
        image = self.options.get("image")
        if self.kind != "local" and not (isinstance(image, str) and image.strip()):
            raise wrong("expected the image to run", "image")
        return self


class Shared(NamedTuple):
    """What all recipes of a file share: the context in which each is validated."""

    path: Path
    place: Place
    env: Mapping[str, str]

    def located(self, name: str) -> str:
        """Relative paths start at the settings file; a container's paths and URLs stay as they are."""
        is_here = self.place.kind == "local" and "://" not in name
        return os.path.normpath(self.path.resolve().parent / name) if is_here else name

    def options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options of a stage, which only a container has."""
        if given and self.place.kind == "local":
            raise wrong("only containers have options")
        return given


_Located = AfterValidator(lambda name, info: info.context.located(name))


class Labels(Section):
    """When the wait for people ends.

    Attributes:
        enough: share of the answers asked for, above 0 up to 1.
        hours: at most this long after the push; 0 does not wait.
        poll_minutes: time between two looks.
    """

    enough: Annotated[float, Field(gt=0, le=1)] = 0.9
    hours: NotNegative = 72.0
    poll_minutes: Positive = 10.0


class StageSettings(Section):
    """How one stage runs.

    Attributes:
        pool: Airflow's pool; empty for the stage's usual one.
        timeout_hours: the call is ended after this long.
        options: further arguments of the container operator.
    """

    pool: Text = ""
    timeout_hours: Positive = 12.0
    options: Annotated[Mapping[str, Any], AfterValidator(lambda given, info: info.context.options(given))] = {}


class Recipe(Section):
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
        place: where the calls run, the same for all recipes of a file.
    """

    name: Name
    recipe: Annotated[YamlFile, _Located]
    workspace: Annotated[Text, _Located]
    dataset: Name = Field(default_factory=lambda data: data["name"])
    schedule: Schedule | None = None
    formats: Folders = ("trl-dpo",)
    exports: Annotated[Text, _Located] = Field(default_factory=lambda data: f"{data['workspace'].rstrip('/')}/exports")
    budget: Count | None = None
    limit: Count | None = None
    labels: Labels = Labels()
    sign_off: bool = False
    sign_off_hours: Positive = 24.0
    late_hours: NotNegative = 24.0
    keep: Count = 10
    retries: Annotated[int, Field(ge=0, le=MOST)] = 3
    retry_minutes: Positive = 2.0
    stages: Mapping[Stage, Annotated[StageSettings, BeforeValidator(lambda row: {} if row is None else row)]] = {}
    env: Annotated[Environment, AfterValidator(lambda env, info: {**info.context.env, **env})] = Field(
        {}, validate_default=True
    )
    place: Annotated[Place, BeforeValidator(lambda _, info: info.context.place)] = Field(
        None, init=False, validate_default=True
    )

    def stage(self, name: str) -> StageSettings:
        """Settings of a stage; those that ask models run in the GPU's pool unless they name another."""
        given: StageSettings = self.stages.get(name, StageSettings())  # type: ignore[call-overload]
        usual = GPU_POOL if name in ASK_MODELS else CPU_POOL
        return given if given.pool else given.model_copy(update={"pool": usual})


class _File(Section):
    place: Place | None = None
    env: Environment | None = None
    recipes: Annotated[list[Any], must(bool, "a list with at least one recipe")]


class Curation(NamedTuple):
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
    context = Shared(path, Place(), {})
    file = validated(_File, value if isinstance(value, Mapping) else {}, path, context=context)
    context = Shared(path, file.place or Place(), file.env or {})
    recipes: list[Recipe] = []
    errors = []
    for index, row in enumerate(file.recipes):
        where = f"recipes[{index}]"
        try:
            recipe = validated(Recipe, row, path, where, context)
            for what in ("name", "dataset"):
                if getattr(recipe, what) in [getattr(other, what) for other in recipes]:
                    raise SettingsError(f"{path}: {where}.{what}: {getattr(recipe, what)} is used by several recipes")
            recipes.append(recipe)
        except SettingsError as error:
            errors.append(str(error))
    return Curation(path, tuple(recipes), tuple(errors))

"""What the DAGs have in common: one task per CLI call, the asset of a dataset, defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseOperator, Param

from prefine_airflow.alerts import task_failed
from prefine_airflow.calls import call_class
from prefine_airflow.fields import SettingsError
from prefine_airflow.settings import Recipe, load

RECIPE = "{{ params.recipe }}"
WORKSPACE = ("--workspace", "{{ params.workspace }}", "--json")


def recipes() -> list[Recipe]:
    """The recipes whose DAGs can be built; `check_settings.py` reports the others.

    Raises:
        SettingsError: the settings file is missing, or wrong in what all recipes share.
    """
    curation = load()
    return [recipe for recipe in curation.recipes if not wrong_options(curation.path, recipe)]


def errors() -> list[str]:
    """What is wrong with recipes that have no DAGs, each naming file and field.

    Raises:
        SettingsError: as for `recipes`.
    """
    curation = load()
    return [*curation.errors, *filter(None, (wrong_options(curation.path, recipe) for recipe in curation.recipes))]


def wrong_options(path: Path, recipe: Recipe) -> str:
    """What the container's operator says against the options of a recipe's stages; empty if nothing.

    Raises:
        SettingsError: it objects to those of `place`, which every recipe shares.
    """
    if recipe.place.kind == "local":
        return ""
    operator = call_class(recipe.place.kind)  # a missing provider is nobody's option
    try:
        _try_options(operator, recipe, {})
    except Exception as error:
        raise SettingsError(f"{path}: place: {error}") from error
    for stage, settings in recipe.stages.items():
        try:
            _try_options(operator, recipe, settings.options)
        except Exception as error:
            return f"{path}: recipe {recipe.name}: stages.{stage}.options: {error}"
    return ""


def _try_options(operator: Any, recipe: Recipe, options: Mapping[str, Any]) -> None:
    """Build a call with these options: only the operator knows which it takes."""
    operator(task_id="options", words=[], prefine=recipe.place.prefine, **{**recipe.place.options, **options})


def asset_of(dataset: str) -> Asset:
    """The asset a dataset is to Airflow; its events carry version, certificate and path."""
    return Asset(name=f"prefine/{dataset}", uri=f"prefine://datasets/{dataset}", group="prefine")


def default_args(recipe: Recipe) -> dict[str, Any]:
    """Bounded retries, each pause twice the last, and an alert at the end."""
    return {
        "owner": "prefine",
        "retries": recipe.retries,
        "retry_delay": timedelta(minutes=recipe.retry_minutes),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(hours=1),
        "on_failure_callback": task_failed,
    }


def params_of(recipe: Recipe) -> dict[str, Param]:
    """What a manual run may change, with its schema."""
    positive: dict[str, Any] = {"type": ["null", "integer"], "minimum": 1}
    return {
        "recipe": Param(recipe.recipe, type="string", pattern=r"\.ya?ml$", description="path of the recipe"),
        "workspace": Param(recipe.workspace, type="string", minLength=1, description="folder or URL of the workspace"),
        "budget": Param(
            recipe.budget, **positive, description="answers to ask people for in total; empty: the recipe's"
        ),
        "limit": Param(recipe.limit, **positive, description="rows read of every source; empty: all"),
    }


def call_args(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Arguments of the operator that runs a stage."""
    settings = recipe.stage(stage)
    return {
        "prefine": recipe.place.prefine,
        "env": dict(recipe.env),
        "pool": settings.pool,
        "execution_timeout": timedelta(hours=settings.timeout_hours),
        **recipe.place.options,
        **settings.options,
    }


def call(recipe: Recipe, task_id: str, words: Sequence[str], stage: str | None = None, **kwargs: Any) -> BaseOperator:
    """A task that calls `prefine`; `stage` names its settings if the task is called otherwise."""
    operator = call_class(recipe.place.kind)
    return operator(task_id=task_id, words=list(words), **{**call_args(recipe, stage or task_id), **kwargs})


def stage_words(stage: str) -> list[str]:
    """The words that run a stage with the run's parameters."""
    options = ["{{ '--limit=%d' % params.limit if params.limit else '' }}"]
    if stage == "route":
        options.append("{{ '--budget=%d' % params.budget if params.budget else '' }}")
    return ["stage", stage, RECIPE, *WORKSPACE, *options]

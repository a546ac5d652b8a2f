"""What the DAGs have in common: one task per CLI call, the asset of a dataset, defaults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, BaseOperator, Param

from prefine_airflow.alerts import task_failed
from prefine_airflow.calls import call_class
from prefine_airflow.settings import Recipe

RECIPE = "{{ params.recipe }}"
WORKSPACE = ("--workspace", "{{ params.workspace }}", "--json")


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
    """A task that calls `prefine`; `stage` names its settings where the task is called otherwise."""
    operator = call_class(recipe.place.kind)
    return operator(task_id=task_id, words=list(words), **{**call_args(recipe, stage or task_id), **kwargs})


def stage_words(stage: str) -> list[str]:
    """The words that run a stage with the run's parameters."""
    options = ["{{ '--limit=%d' % params.limit if params.limit else '' }}"]
    if stage == "route":
        options.append("{{ '--budget=%d' % params.budget if params.budget else '' }}")
    return ["stage", stage, RECIPE, *WORKSPACE, *options]

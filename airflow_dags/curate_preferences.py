"""Curation, one DAG for every recipe of the settings file: from sources to an announced, exported dataset version.

Every task is one call of the `prefine` command in the pipeline's own environment, and every call is idempotent: what
stands in the workspace is not made again, so a cleared task or a backfill repeats nothing.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    TaskGroup,
    chain,
    get_current_context,
    task,
)
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

sys.path.append(str(Path(__file__).parent))  # Airflow does so for bundles, not for every way to load a DAG

from prefine_airflow.alerts import run_late
from prefine_airflow.calls import call_class
from prefine_airflow.dags import (
    RECIPE,
    WORKSPACE,
    asset_of,
    call,
    call_args,
    default_args,
    params_of,
    recipes,
    stage_words,
)
from prefine_airflow.labels import label_wait
from prefine_airflow.settings import CPU_POOL, Recipe

VERSION = "{{ ti.xcom_pull(task_ids='materialise')['dataset'] }}@{{ ti.xcom_pull(task_ids='materialise')['version'] }}"
FOLDER = "{{ ti.xcom_pull(task_ids='materialise')['version'] }}"
RELEASE = """Labels: {{ ti.xcom_pull(task_ids='wait_for_labels') }}

Fusion: {{ ti.xcom_pull(task_ids='fuse_again')['stages'] }}

Workspace: {{ params.workspace }}"""


def curation(recipe: Recipe) -> DAG:
    """The DAG of one recipe."""
    late = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=recipe.late_hours),
        callback=SyncCallback(run_late, kwargs={"dag_id": f"curate_{recipe.name}", "hours": recipe.late_hours}),
    )
    with DAG(
        dag_id=f"curate_{recipe.name}",
        description=f"Curate {recipe.dataset} from {recipe.recipe}",
        doc_md=__doc__,
        schedule=recipe.schedule,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=params_of(recipe),
        default_args=default_args(recipe),
        deadline=late if recipe.late_hours else None,
        tags=["prefine", recipe.dataset],
    ) as dag:
        with TaskGroup("gather", prefix_group_id=False, tooltip="pairs, and every vote but people's"):
            gather = [call(recipe, name, stage_words(name)) for name in ("ingest", "generate", "clean", "judge")]
        with TaskGroup("ask", prefix_group_id=False, tooltip="what people are asked, and the wait for them"):
            ask = [call(recipe, name, stage_words(name)) for name in ("score", "fuse", "route", "push")]
            ask.append(wait_for_labels(recipe))
        with TaskGroup("learn", prefix_group_id=False, tooltip="their answers, and what they change"):
            pull = call(recipe, "pull", stage_words("pull"))
            learn = [pull, *(call(recipe, f"{name}_again", stage_words(name), name) for name in ("score", "fuse"))]
        with TaskGroup("release", prefix_group_id=False, tooltip="the version, if anything is new"):
            materialise = call(recipe, "materialise", stage_words("materialise"))
            chain(*gather, *ask, *learn, *sign_off(recipe), materialise)
            announce(recipe, materialise)
            materialise >> exports(recipe)
    return dag


def wait_for_labels(recipe: Recipe) -> BaseOperator:
    """The wait for people; see `prefine_airflow.labels`."""
    return label_wait(call_class(recipe.place.kind))(
        task_id="wait_for_labels",
        words=["labels", RECIPE, *WORKSPACE],
        since="{{ ti.xcom_pull(task_ids='push')['ended'] }}",
        until=recipe.labels,
        **call_args(recipe, "pull"),
    )


def sign_off(recipe: Recipe) -> list[Any]:
    """A person's approval of the release, if the recipe asks for it; no answer is a rejection."""
    if not recipe.sign_off:
        return []
    return [
        ApprovalOperator(
            task_id="sign_off",
            subject=f"Release the next version of {recipe.dataset}?",
            body=RELEASE,
            defaults=ApprovalOperator.REJECT,
            response_timeout=timedelta(hours=recipe.sign_off_hours),
        )
    ]


def exports(recipe: Recipe) -> Any:
    """One export a format, each in a folder of its version; a finished one is left as it is."""
    words = [
        ["export", VERSION, "--format", form, "--out", f"{recipe.exports}/{recipe.dataset}/{FOLDER}/{form}", "--keep"]
        for form in recipe.formats
    ]
    operator = call_class(recipe.place.kind).partial(
        task_id="export", map_index_template="{{ task.words[3] }}", **call_args(recipe, "export")
    )
    return operator.expand(words=[[*row, *WORKSPACE] for row in words])


def announce(recipe: Recipe, materialise: BaseOperator) -> Any:
    """The event of the dataset's asset, once a version: skipped if its last event names this version."""
    asset = asset_of(recipe.dataset)

    @task(task_id="announce", inlets=[asset], outlets=[asset], pool=CPU_POOL)
    def announced(published: Any) -> str:
        if published["dataset"] != recipe.dataset:
            raise AirflowFailException(
                f"the recipe publishes {published['dataset']!r}, the settings say {recipe.dataset!r}: make them agree"
            )
        version = published["version"]
        if last_version(asset) == version:
            raise AirflowSkipException(f"{recipe.dataset} {version} is announced already: nothing new")
        names = ("dataset", "version", "certificate", "path", "report", "workspace")
        get_current_context()["outlet_events"][asset].extra.update({name: published[name] for name in names})
        return f"{recipe.dataset}@{version}"

    return announced(materialise.output)


def last_version(asset: Asset) -> Any:
    """The version in the asset's last event; None before the first."""
    events = get_current_context()["inlet_events"][asset]
    return (events[-1].extra or {}).get("version") if len(events) else None


for _recipe in recipes():
    globals()[f"curate_{_recipe.name}"] = curation(_recipe)

"""An example of a consumer: every announced version is exported for a trainer and checked before anybody trains on it.

Put your training after `check_split`; its XCom says which folder to read.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

sys.path.append(str(Path(__file__).parent))  # Airflow does so for bundles, not for every way to load a DAG

from prefine_airflow.dags import asset_of, call, default_args, recipes
from prefine_airflow.settings import Recipe

FORMAT = "trl-dpo"
_EVENT = "ti.xcom_pull(task_ids='new_version')"
_VERSION = f"{{{{ {_EVENT}['dataset'] }}}}@{{{{ {_EVENT}['version'] }}}}"
_WORKSPACE = ("--workspace", f"{{{{ {_EVENT}['workspace'] }}}}", "--json")


def consumer(recipe: Recipe) -> DAG:
    """The DAG that follows one dataset."""
    asset = asset_of(recipe.dataset)
    with DAG(
        dag_id=f"train_on_{recipe.name}",
        description=f"Export and check every new version of {recipe.dataset}",
        doc_md=__doc__,
        schedule=[asset],
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=default_args(recipe),
        tags=["prefine", recipe.dataset],
    ) as dag:

        @task(inlets=[asset])
        def new_version() -> dict[str, Any]:
            """The latest version announced: of the events that started this run or, in a manual run, of all."""
            context = get_current_context()
            events = context["triggering_asset_events"].get(asset) or context["inlet_events"][asset]
            if not len(events):
                raise AirflowSkipException(f"no version of {recipe.dataset} has been announced yet")
            return {**(events[-1].extra or {})}

        @task
        def check_split(event: Any, exported: Any, checks: Any) -> dict[str, Any]:
            """Whether the version passes every check (splits share no prompt) and the export has rows to train on."""
            broken = [check["name"] for check in checks if not check["ok"]]
            if broken or ("rows" in exported and not exported["rows"].get("train")):
                raise AirflowFailException(f"not fit to train on: {broken or 'no row in split train'}")
            return {"train_on": exported["out"], "version": event["version"], "checks": len(checks)}

        event = new_version()
        out = f"{recipe.exports}/{recipe.dataset}/{{{{ {_EVENT}['version'] }}}}/{FORMAT}-train"
        export = call(recipe, "export", ["export", _VERSION, "--format", FORMAT, "--out", out, "--keep", *_WORKSPACE])
        verify = call(recipe, "verify", ["verify", _VERSION, *_WORKSPACE], "export")
        event >> [export, verify]
        check_split(event, export.output, verify.output)
    return dag


for _recipe in recipes():
    globals()[f"train_on_{_recipe.name}"] = consumer(_recipe)

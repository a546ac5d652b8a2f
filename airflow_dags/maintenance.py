"""Once a week, for every recipe: compact the memo, verify the latest version, prune old ones, audit the labels anew."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TaskGroup, chain, task
from airflow.sdk.exceptions import AirflowSkipException

sys.path.append(str(Path(__file__).parent))  # Airflow does so for bundles, not for every way to load a DAG

from prefine_airflow.dags import call, default_args, recipes
from prefine_airflow.settings import CPU_POOL, Recipe

_RECIPES = recipes()  # outside the DAG: it tries their operators


def maintenance_tasks(recipe: Recipe) -> None:
    """The tasks of one recipe; those about versions are skipped before the first version."""
    where = ("--workspace", recipe.workspace, "--json")
    dataset = recipe.dataset

    @task(pool=CPU_POOL)
    def published(versions: Any) -> list[str]:
        """The versions there are."""
        names = [row["version"] for row in versions if row["name"] == dataset]
        if not names:
            raise AirflowSkipException(f"{dataset} has no version yet")
        return names

    with TaskGroup(recipe.name, default_args=default_args(recipe)):  # type: ignore[arg-type]
        # In the pool of the stages that write the memo: they must not run while it is compacted.
        compact = call(recipe, "compact", ["compact", *where], "generate")
        versions = call(recipe, "datasets", ["datasets", *where], "export")
        verify = call(recipe, "verify", ["verify", dataset, *where], "export")
        prune = call(recipe, "prune", ["prune", dataset, "--keep", str(recipe.keep), *where], "export")
        audit = call(recipe, "audit", ["audit", dataset, *where], "export")
        chain(compact, versions, published(versions.output), verify, prune, audit)


with DAG(
    dag_id="maintain_prefine",
    description="Compact, verify, prune, audit",
    doc_md=__doc__,
    schedule="0 5 * * 0",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["prefine"],
) as dag:
    for _recipe in _RECIPES:
        maintenance_tasks(_recipe)

"""The DAGs load, look exactly as documented, survive serialisation, and import nothing of ours."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
from conftest import DAGS

CHAIN = ("ingest", "generate", "clean", "judge", "score", "fuse", "route", "push", "wait_for_labels", "pull")
AGAIN = ("score_again", "fuse_again")
PARSE_SECONDS = 1.0  # of processor time


def edges(dag: Any) -> dict[str, set[str]]:
    return {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}


def chained(*names: str) -> dict[str, set[str]]:
    return {a: {b} for a, b in pairwise(names)}


def test_there_are_no_import_errors() -> None:
    command = [sys.executable, "-m", "airflow", "dags", "list-import-errors", "--local", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_dag_would_be_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\nimport nowhere\n")
    command = [sys.executable, "-m", "airflow", "dags", "list-import-errors", "--local"]
    environment = {**os.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path)}
    assert subprocess.run(command, capture_output=True, env=environment, timeout=300).returncode == 1


def test_every_recipe_has_its_dags(bag: BundleDagBag) -> None:
    assert bag.import_errors == {}
    names = {f"{kind}_{name}" for kind in ("curate", "train_on") for name in ("plain", "people")}
    assert set(bag.dags) == names | {"maintain_prefine"}


def test_the_curation_is_exactly_this(bag: BundleDagBag) -> None:
    end = {"materialise": {"announce", "export"}, "announce": set(), "export": set()}
    assert edges(bag.dags["curate_plain"]) == chained(*CHAIN, *AGAIN, "materialise") | end
    assert edges(bag.dags["curate_people"]) == chained(*CHAIN, *AGAIN, "sign_off", "materialise") | end


def test_the_consumer_and_the_upkeep_are_exactly_this(bag: BundleDagBag) -> None:
    consumer = edges(bag.dags["train_on_plain"])
    assert consumer == {
        "new_version": {"export", "verify", "check_split"},
        "export": {"check_split"},
        "verify": {"check_split"},
        "check_split": set(),
    }
    tasks = ("compact", "datasets", "published", "verify", "prune", "audit")
    upkeep = edges(bag.dags["maintain_prefine"])
    wanted = {}
    for name in ("plain", "people"):
        wanted |= chained(*(f"{name}.{task}" for task in tasks)) | {f"{name}.audit": set()}
    assert upkeep == wanted


def test_assets_tie_producer_and_consumer(bag: BundleDagBag) -> None:
    (outlet,) = bag.dags["curate_plain"].get_task("announce").outlets
    assert (outlet.name, outlet.uri) == ("prefine/plain", "prefine://datasets/plain")
    assert bag.dags["train_on_plain"].schedule == [outlet]


def test_retries_pools_and_limits(bag: BundleDagBag) -> None:
    for dag_id in ("curate_plain", "curate_people"):
        dag = bag.dags[dag_id]
        assert (dag.max_active_runs, dag.catchup) == (1, False)
        assert len(dag.deadline) == 1
        for task in dag.tasks:
            assert task.retries == 1
            assert task.retry_exponential_backoff == 2.0
            assert task.max_retry_delay is not None
            assert task.on_failure_callback
        pools = {task.task_id: task.pool for task in dag.tasks}
        assert {name for name, pool in pools.items() if pool == "prefine_gpu"} == {"generate", "judge"}
    assert bag.dags["curate_people"].get_task("fuse").pool == "my_pool"


@pytest.mark.parametrize(
    "conf", [{"recipe": "x.txt"}, {"workspace": ""}, {"budget": 0}, {"budget": "many"}, {"limit": -1}, {"limit": 1.5}]
)
def test_wrong_params_are_refused(bag: BundleDagBag, conf: dict[str, Any]) -> None:
    changed = deepcopy(bag.dags["curate_plain"].params)
    with pytest.raises(ValueError, match=str(next(iter(conf)))):
        changed.update(conf)  # what starting a run does with its configuration


def test_serialisation_keeps_the_dags(bag: BundleDagBag) -> None:
    for dag in bag.dags.values():
        stored = DagSerialization.serialize_dag(dag)
        again = DagSerialization.deserialize_dag(json.loads(json.dumps(stored, default=str)))
        assert {t.task_id: set(t.downstream_task_ids) for t in again.tasks} == edges(dag)
        assert again.max_active_runs == 1


def test_files_parse_fast_and_import_nothing_heavy() -> None:
    """Processor time in a process that has imported Airflow itself, as the DAG processor has."""
    code = (
        "import sys, time; from airflow.dag_processing.dagbag import BundleDagBag; from pathlib import Path;"
        "import airflow.sdk, airflow.providers.standard.operators.hitl; d = Path(sys.argv[1]);"
        "before = set(sys.modules);"
        "t = time.process_time(); b = BundleDagBag(d, bundle_path=d, bundle_name='x'); s = time.process_time() - t;"
        "assert len(b.dags) == 5, b.import_errors;"
        "print(s, *sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    command = [sys.executable, "-c", code, str(DAGS)]
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=300, check=True) for _ in range(3)]
    words = [done.stdout.splitlines()[-1].split() for done in runs]
    heavy = {
        "schemas",
        "transforms",
        "pipelines",
        "prefine",
        "numpy",
        "pandas",
        "polars",
        "torch",
        "docker",
        "kubernetes",
    }
    assert not {module for first, *modules in words for module in modules} & heavy
    assert min(float(first) for first, *_ in words) < PARSE_SECONDS


def test_nothing_of_ours_is_imported() -> None:
    ours = {"schemas", "transforms", "pipelines", "prefine", "tests"}
    for path in DAGS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & ours, path

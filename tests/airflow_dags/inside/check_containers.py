"""Calls in containers: `place: docker` and `place: kubernetes`, by themselves and as DAGs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization
from conftest import DAGS, FAKE, Run
from containers import Engine
from docker.errors import DockerException
from kubernetes.client.exceptions import ApiException
from prefine_airflow.alerts import stage_status, task_failed
from prefine_airflow.calls import call_class
from prefine_airflow.kubernetes_call import SCRIPT

KINDS = ("docker", "kubernetes")
OPTIONS: dict[str, dict[str, Any]] = {
    "docker": {"image": "prefine:1", "mounts": [{"source": "/w", "target": "/w", "type": "bind"}], "labels": ["data"]},
    "kubernetes": {"image": "prefine:1", "namespace": "ml", "labels": {"team": "data"}},
}
WORDS = ["stage", "judge", "r.yaml", "--workspace", "w", "", "--json"]


def a_call(kind: str, **options: Any) -> Any:
    given = {"words": WORDS, "prefine": ["prefine"], "env": {"TOKEN": "t"}, "task_id": "judge"}
    return call_class(kind)(**given, **OPTIONS[kind], execution_timeout=timedelta(hours=1), **options)


class Instance:
    """A task instance."""

    dag_id, task_id, run_id, try_number, map_index = "d", "judge", "r", 1, -1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": Instance(), "run_id": "r", "dag": None}


@pytest.fixture
def plan(engine: Engine) -> Callable[..., None]:
    """What the fake `prefine` of the image is to do."""
    executable = engine.folder / "prefine"
    fake = Path(__file__).parent / "fake_prefine.py"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    executable.chmod(0o755)

    def write(**behaviours: list[dict[str, Any]]) -> None:
        FAKE.mkdir(exist_ok=True)
        (FAKE / "calls.jsonl").unlink(missing_ok=True)
        (FAKE / "plan.json").write_text(json.dumps(behaviours))

    write()
    return write


def called() -> list[list[str]]:
    return [json.loads(line)["words"] for line in (FAKE / "calls.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_with_an_entry_point_runs_prefine_once(kind: str, engine: Engine, context: dict[str, Any]) -> None:
    result = a_call(kind).execute(context)
    assert result["stages"] == [{"stage": "judge", "rows_out": 1}]
    assert result["ended"]
    assert called() == [["stage", "judge", "r.yaml", "--workspace", "w", "--json"]]
    assert engine.containers[0]["environment"]["TOKEN"] == "t"


@pytest.mark.parametrize("kind", KINDS)
def test_exit_2_is_final_and_other_failures_are_not_and_both_are_quoted(
    kind: str, plan: Callable[..., None], context: dict[str, Any]
) -> None:
    plan(judge=[{"exit": 2, "log": "recipe.yaml:3: wrong"}, {"exit": 1, "log": "the server is down"}])
    with pytest.raises(AirflowFailException, match=r"recipe\.yaml:3"):
        a_call(kind).execute(context)
    with pytest.raises(AirflowException, match="the server is down") as error:
        a_call(kind).execute(context)
    assert not isinstance(error.value, AirflowFailException)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_tells_no_secret(kind: str, plan: Callable[..., None], context: dict[str, Any]) -> None:
    plan(judge=[{"exit": 1}])
    call = a_call(kind)
    call.env_vars = call.environment = {"TOKEN": "s3cr3t"}
    with pytest.raises(AirflowException) as error:
        call.execute(context)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_is_away_may_come_back(kind: str, engine: Engine, context: dict[str, Any]) -> None:
    engine.lost = {"docker": DockerException("no daemon"), "kubernetes": ApiException(status=503, reason="busy")}[kind]
    with pytest.raises(AirflowException, match=r"no daemon|busy") as error:
        a_call(kind).execute(context)
    assert not isinstance(error.value, AirflowFailException)


@pytest.mark.parametrize("kind", KINDS)
def test_the_alert_has_the_stage_s_status_from_a_container_of_its_own(
    kind: str,
    plan: Callable[..., None],
    engine: Engine,
    context: dict[str, Any],
    alerts: list[str],
) -> None:
    plan(judge=[{"exit": 1, "log": "the server is down"}])
    task = a_call(kind)
    with pytest.raises(AirflowException) as error:
        task.execute(context)
    before = dict(context["ti"].pushed)
    task_failed({**context, "task": task, "exception": error.value})  # type: ignore[typeddict-item]
    assert len(engine.containers) == 2
    assert called()[-1] == ["status", "--workspace", "w", "--json"]
    (alert,) = alerts
    assert "the server is down" in alert
    assert '"stage": "judge", "buckets": 3' in alert
    assert '"stage": "score"' not in alert
    assert context["ti"].pushed == before
    engine.lost = OSError("gone")
    assert stage_status(task, context, WORDS) == "unknown (OSError)"  # type: ignore[arg-type]


def test_the_pod_s_script_keeps_result_and_exit_code(tmp_path: Path) -> None:
    script = SCRIPT.replace("/airflow/xcom", str(tmp_path / "xcom"))
    for code in (2, 0):
        python = f"print('first'); print('{{\"a\": 1}}'); raise SystemExit({code})"
        done = subprocess.run(["sh", "-c", script, "prefine", sys.executable, "-c", python], timeout=60)
        assert done.returncode == code
        results = [path.read_text() for path in tmp_path.glob("xcom/return.json")]
        assert results == ([] if code else ['{"a": 1}\n'])


@pytest.fixture(params=KINDS)
def container_bag(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BundleDagBag:
    """The DAGs of the ordinary test settings, with every call in a container."""
    value = yaml.safe_load(Path(os.environ["PREFINE_CURATION"]).read_text())
    value["place"] = {"kind": request.param, **OPTIONS[request.param]}
    for recipe in value["recipes"]:
        recipe.setdefault("stages", {})["judge"] = {"options": {"image": "prefine-gpu:1"}}
        recipe.update(late_hours=0, labels={"poll_minutes": 0.02})
    path = tmp_path / "containers.yaml"
    path.write_text(yaml.safe_dump(value))
    monkeypatch.setenv("PREFINE_CURATION", str(path))
    return BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags-folder")


def test_container_dags_are_those_of_local_calls(container_bag: BundleDagBag, bag: BundleDagBag) -> None:
    assert container_bag.import_errors == {}
    assert set(container_bag.dags) == set(bag.dags)
    for name, dag in container_bag.dags.items():
        local = bag.dags[name]
        assert {t.task_id: t.downstream_task_ids for t in dag.tasks} == {
            t.task_id: t.downstream_task_ids for t in local.tasks
        }
        assert {t.task_id: t.pool for t in dag.tasks} == {t.task_id: t.pool for t in local.tasks}
        assert {t.task_id for t in dag.tasks if t.is_mapped} == {t.task_id for t in local.tasks if t.is_mapped}
        calls = [t for t in dag.tasks if not t.is_mapped and hasattr(t, "words")]
        assert {t.task_id: t.words for t in calls} == {t.task_id: local.get_task(t.task_id).words for t in calls}
        for task in calls:
            assert task.image == ("prefine-gpu:1" if task.task_id == "judge" else "prefine:1")
        stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag), default=str))
        again = DagSerialization.deserialize_dag(stored)
        assert {t.task_id: set(t.downstream_task_ids) for t in again.tasks} == {
            t.task_id: set(t.downstream_task_ids) for t in dag.tasks
        }


def test_a_whole_run_in_containers(
    container_bag: BundleDagBag,
    run_dag: Callable[..., Run],
    plan: Callable[..., None],
    engine: Engine,
    alerts: list[str],
) -> None:
    """Every call, the mapped exports and the wait for people, which sleeps between two looks."""
    done = run_dag(container_bag.dags["curate_plain"], {"labels": [{"exit": 1}, {"say": {"answered": 9}}]})
    assert (done.state, alerts) == ("success", [])
    assert done.results["wait_for_labels"]["ended_by"] == "enough"
    assert len(done.calls("labels")) == 2
    assert {state for name, state in done.states.items() if name != "announce"} == {"success"}
    assert {call["words"][3] for call in done.calls("export")} == {"trl-dpo", "jsonl"}
    assert len(engine.containers) == len(done.calls())

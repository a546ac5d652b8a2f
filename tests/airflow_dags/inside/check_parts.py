"""The parts by themselves: settings, containers, the end of the wait, alerts of late runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from prefine_airflow import alerts as alerting
from prefine_airflow.calls import LocalCall, call_class, child_environment, failure, given, last_json
from prefine_airflow.labels import ended_by
from prefine_airflow.settings import SettingsError, load

RECIPE = "recipes: [{name: a, recipe: r.yaml, workspace: w}]"


def settings(folder: Path, text: str) -> Path:
    path = folder / "curation.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "recipes"),
        ("recipes: []", "recipes"),
        ("recipes: [{name: a, recipe: r.yaml}]", "recipes[0].workspace"),
        ("recipes: [{name: A B, recipe: r.yaml, workspace: w}]", "recipes[0].name"),
        ("recipes: [{name: a, recipe: r.yaml, workspace: w, lables: {}}]", "lables"),
        ("recipes: [{name: a, recipe: r.yaml, workspace: w, labels: {enough: 2}}]", "enough"),
        ("recipes: [{name: a, recipe: r.yaml, workspace: w, stages: {juge: {}}}]", "juge"),
        (RECIPE + "\nplace: {kind: cloud}", "place.kind"),
        (RECIPE + "\nplace: {kind: docker}", "place.image"),
        (RECIPE + "\nplace: {image: x}", "place.image"),
        ("recipes: [{name: a, recipe: r, workspace: w}, {name: a, recipe: r, workspace: v}]", "several"),
        ("recipes: [", "curation.yaml"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(settings(tmp_path, text))
    assert words in str(error.value)
    assert "curation.yaml" in str(error.value)


def test_relative_paths_start_at_the_file_but_not_inside_containers(tmp_path: Path) -> None:
    (here,) = load(settings(tmp_path, RECIPE + "\nplace: {prefine: ../bin/prefine}"))
    assert (here.recipe, here.workspace) == (str(tmp_path / "r.yaml"), str(tmp_path / "w"))
    assert here.place.prefine == (str(tmp_path.parent / "bin" / "prefine"),)
    (there,) = load(settings(tmp_path, RECIPE + "\nplace: {kind: docker, image: prefine:1}"))
    assert (there.recipe, there.workspace) == ("r.yaml", "w")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_a_call_sees_nothing_of_airflow() -> None:
    ours = {"AIRFLOW_HOME": "x", "AIRFLOW__CORE__X": "y", "_AIRFLOW_Z": "z", "PYTHONPATH": "p", "PATH": "/bin"}
    assert child_environment(ours, {"TOKEN": "t", "EMPTY": ""}) == {"PATH": "/bin", "TOKEN": "t"}
    assert given(["a", "", "b"]) == ["a", "b"]


def test_the_result_is_the_last_line_that_is_json() -> None:
    assert last_json(['{"a": 1}', "warning", ""])["a"] == 1
    assert last_json(["[1]"]) == [1]
    with pytest.raises(AirflowException, match="--json"):
        last_json(["nothing", "3"])


def test_only_exit_2_is_final() -> None:
    assert isinstance(failure(2, ["stage", "x"], ""), AirflowFailException)
    assert not isinstance(failure(1, ["stage", "x"], ""), AirflowFailException)


@pytest.mark.parametrize(
    ("wanted", "answered", "late", "why"),
    [
        (10, 9, False, "enough"),
        (10, 8, False, None),
        (10, 8, True, "deadline"),
        (10, 9, True, "enough"),
        (0, 0, False, "nothing_asked"),
        (1, 0, False, None),
    ],
)
def test_when_the_wait_ends(wanted: int, answered: int, late: bool, why: str | None) -> None:
    assert ended_by({"wanted": wanted, "answered": answered}, 0.9, late) == why


@pytest.mark.parametrize(("late", "why"), [(False, None), (True, "deadline")])
def test_not_knowing_is_no_reason_to_stop_before_the_deadline(late: bool, why: str | None) -> None:
    assert ended_by({}, 0.9, late) == why


def test_a_late_run_is_told(alerts: list[str]) -> None:
    context = {"dag_run": {"dag_run_id": "r1", "state": "running"}}
    alerting.run_late(dag_id="curate_plain", hours=2.0, context=context)
    assert len(alerts) == 1
    assert all(word in alerts[0] for word in ("curate_plain", "r1", "2 hours", "running"))


def test_an_alert_that_cannot_be_delivered_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PREFINE_ALERTS", '{"conn_type": "http", "password": "http://127.0.0.1:9/"}')
    alerting.tell("nobody hears this")


def test_a_status_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    task = LocalCall(task_id="x", words=["stage", "judge"], prefine=[str(tmp_path / "nothing")])
    assert alerting.stage_status(task, "w", "judge") == "unknown (FileNotFoundError)"


def test_a_call_ends_when_its_task_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    sleeper = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    task = (
        "import sys; from prefine_airflow.calls import LocalCall;"
        "LocalCall(task_id='x', words=[], prefine=[sys.executable, '-c', sys.argv[1]]).call({})"
    )
    path = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    with subprocess.Popen([sys.executable, "-c", task, sleeper], env={**os.environ, "PYTHONPATH": path}) as running:
        deadline = time.monotonic() + 300
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.kill()
    while time.monotonic() < deadline:
        try:
            if psutil.Process(int(pid.read_text())).status() == psutil.STATUS_ZOMBIE:
                return  # ended; where nobody collects orphans it stays listed
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)
    pytest.fail("the call lives on")


WORDS = {"words": ["stage", "judge", "", "--json"], "prefine": ["prefine"], "env": {"TOKEN": "t"}, "task_id": "judge"}


def test_a_docker_call_runs_the_words_and_reads_the_last_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_class("docker")(image="prefine:1", mounts=[], execution_timeout=timedelta(hours=1), **WORDS)
    assert call.environment == {"TOKEN": "t"}
    parent = type(call).__mro__[1]
    monkeypatch.setattr(parent, "execute", lambda self, context: ["log", '{"rows": 3}', "late log"])
    assert call.execute({})["rows"] == 3
    assert call.command == ["prefine", "stage", "judge", "--json"]
    from airflow.providers.docker.exceptions import DockerContainerFailedSkipException

    def refuse(self: Any, context: Any) -> None:
        raise DockerContainerFailedSkipException("exit 2", logs=["recipe.yaml:3: wrong"])

    monkeypatch.setattr(parent, "execute", refuse)
    with pytest.raises(AirflowFailException, match=r"recipe\.yaml:3"):
        call.execute({})


def test_a_pod_runs_the_words_and_hands_over_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_class("kubernetes")(image="prefine:1", namespace="ml", **WORDS)
    assert call.env_vars == {"TOKEN": "t"}
    parent = type(call).__mro__[1]
    monkeypatch.setattr(parent, "execute", lambda self, context: {"rows": 3})
    assert call.execute({})["rows"] == 3
    assert (call.cmds[0], call.arguments) == ("sh", ["prefine", "stage", "judge", "--json"])

    def refuse(self: Any, context: Any) -> None:
        raise AirflowSkipException("exit 2")

    monkeypatch.setattr(parent, "execute", refuse)
    with pytest.raises(AirflowFailException):
        call.execute({})


def test_the_pod_s_script_keeps_result_and_exit_code(tmp_path: Path) -> None:
    from prefine_airflow.kubernetes_call import SCRIPT

    script = SCRIPT.replace("/airflow/xcom", str(tmp_path))
    for code in (0, 2):
        python = f"print('first'); print('{{\"a\": 1}}'); raise SystemExit({code})"
        done = subprocess.run(["sh", "-c", script, "prefine", sys.executable, "-c", python], timeout=60)
        assert done.returncode == code
        assert (tmp_path / "return.json").read_text() == '{"a": 1}\n'


def test_a_missing_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith(("airflow.providers.docker", "prefine_airflow.docker"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "airflow.providers.docker.operators.docker", None)
    with pytest.raises(ImportError, match="apache-airflow-providers-docker"):
        call_class("docker")
